//! Exit codes: what a script can tell apart.

use std::process::ExitCode;

use mig_engine::image::ImageError;
use mig_engine::{DecodeError, EncodeError, UnpackError};
use mig_service::problem::Problem;
use mig_service::wire::{Code, WireError};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DAMAGED: u8 = 3;
const REFERENCE: u8 = 4;
const OTHER_END: u8 = 5;
const CANCELLED_THERE: u8 = 6;
const UNCONFIRMED: u8 = 7;
const INTERRUPTED: u8 = 130;

/// The exit code for an error; the program's help lists them.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.chain().find_map(code_of_cause).unwrap_or(FAILED))
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(problem) = cause.downcast_ref::<Problem>() {
        return Some(match problem {
            Problem::Usage(_) => USAGE,
            Problem::Reference(_) => REFERENCE,
            Problem::Unconfirmed(_) => UNCONFIRMED,
            _ => FAILED,
        });
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(code_of_wire(error));
    }
    if let Some(EncodeError::Cancelled) = cause.downcast_ref() {
        return Some(INTERRUPTED);
    }
    if let Some(error) = cause.downcast_ref::<UnpackError>() {
        return Some(code_of_decode(&error.source));
    }
    if let Some(error) = cause.downcast_ref::<DecodeError>() {
        return Some(code_of_decode(error));
    }
    cause.downcast_ref().and_then(code_of_image)
}

fn code_of_wire(error: &WireError) -> u8 {
    match error {
        WireError::Cancelled => INTERRUPTED,
        WireError::CancelledThere(_) | WireError::Stopped(_) => CANCELLED_THERE,
        WireError::Keys(_) => USAGE,
        WireError::Failed { code: Code::Damaged, .. } => DAMAGED,
        WireError::Failed { code: Code::Reference, .. } => REFERENCE,
        _ => OTHER_END,
    }
}

/// Nothing where it was the system that refused, and not the image.
fn code_of_image(error: &ImageError) -> Option<u8> {
    match error {
        ImageError::Read { .. } | ImageError::Spool { .. } | ImageError::Output { .. } => None,
        _ => Some(DAMAGED),
    }
}

fn code_of_decode(error: &DecodeError) -> u8 {
    match error {
        DecodeError::Cancelled => INTERRUPTED,
        DecodeError::Io { .. } => FAILED,
        DecodeError::Layout(error) => code_of_image(error).unwrap_or(FAILED),
        DecodeError::MissingReference { .. } | DecodeError::Reference { .. } | DecodeError::Digest { .. } => {
            REFERENCE
        }
        _ => DAMAGED,
    }
}
