//! Which adapter is opened, and what is said where none is.

use super::gpu;
use crate::gpu::{AdapterKind, Gpu, GpuChoice, GpuError, GpuMode};

#[test]
fn off_looks_for_nothing() {
    assert!(Gpu::open(&GpuChoice::new(GpuMode::Off)).unwrap().is_none());
    assert!(Gpu::open(&GpuChoice::named(GpuMode::Off, "no such adapter")).unwrap().is_none());
}

#[test]
fn a_required_adapter_that_is_not_there_is_an_error_with_reasons() {
    let Some(gpu) = gpu() else { return };
    let error = Gpu::open(&GpuChoice::named(GpuMode::Require, "no such adapter")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&gpu.adapter().name) && text.contains("no such adapter"), "{text}");
    assert!(Gpu::open(&GpuChoice::named(GpuMode::Auto, "no such adapter")).unwrap().is_none());
}

#[test]
fn software_is_used_only_if_it_is_named_and_required() {
    let Some(gpu) = gpu() else { return };
    if gpu.adapter().kind != AdapterKind::Software {
        // There is a better one, so there is nothing to see here.
        return;
    }
    let name = gpu.adapter().name.to_uppercase();
    assert!(Gpu::open(&GpuChoice::new(GpuMode::Auto)).unwrap().is_none());
    assert!(Gpu::open(&GpuChoice::named(GpuMode::Auto, &name)).unwrap().is_none());
    let GpuError::Refused(refused) = Gpu::open(&GpuChoice::new(GpuMode::Require)).unwrap_err() else {
        panic!("it was seen")
    };
    assert!(
        refused.iter().any(|one| one.why.contains("software") && one.why.contains("name it")),
        "{refused:?}"
    );
    assert!(Gpu::open(&GpuChoice::named(GpuMode::Require, &name)).unwrap().is_some());
}

#[test]
fn adapters_come_in_order_with_their_limits() {
    let Some(gpu) = gpu() else { return };
    let adapters = Gpu::adapters();
    assert!(adapters.is_sorted_by_key(|adapter| adapter.kind));
    assert_eq!(&adapters[0], gpu.adapter());
    for adapter in adapters {
        assert!(adapter.max_binding > 0 && adapter.max_binding <= adapter.max_buffer, "{adapter:?}");
        assert!(adapter.unusable.is_some() || adapter.batch_pages.is_multiple_of(1024), "{adapter:?}");
    }
}
