//! Host memory as a buffer of the device, without a copy: `VK_EXT_external_memory_host`, through wgpu-hal.
//!
//! wgpu does not know the extension, so the device is opened with it through wgpu-hal's callback, and buffers over imported
//! memory are made with ash and handed to wgpu, which from then on treats them like its own. All unsafe code of the GPU
//! worker is in this file. Three things make it true:
//!
//! * **The memory stays.** A buffer owns a [`Hold`]; it is given up when wgpu drops the buffer for good, which it does after
//!   the last submission that uses it has ended. A device that hangs never gets there, and then the memory stays for ever.
//! * **The memory rests.** That is what a [`Hold`] promises: nobody writes while it exists. (Were a mapped file written
//!   to all the same, the device would read a mix of two moments, which is as much as the CPU can say; nothing is believed
//!   that is not verified.) The device only reads: buffers have no usage that writes.
//! * **What is read is inside.** Pieces are cut at the system's pages ([`PAGE`]) around held bytes, so all of a piece is
//!   mapped; stages are given places of whole pages within it, and naga's bounds checks hold for the rest.

#![allow(
    unsafe_code,
    reason = "wgpu-hal and ash are unsafe by nature; what makes each call true is said beside it"
)]

use std::ops::Range;

use ash::vk;
use wgpu::hal::vulkan as hal;

use crate::hold::Hold;

/// What host memory is cut at: the smallest page of any system that we run on, so that bytes around held ones, up to the
/// next multiple, are mapped, too.
pub(super) const PAGE: u64 = 4096;
const HANDLE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// Makes buffers of host memory.
#[derive(Clone)]
pub(super) struct Importer {
    device: ash::Device,
    functions: ash::ext::external_memory_host::Device,
    memory_types: Vec<vk::MemoryPropertyFlags>,
}

/// The alignment at which an adapter imports host memory, in bytes, if it does.
///
/// # Errors
///
/// Why it does not, in words.
pub(super) fn alignment(adapter: &wgpu::Adapter) -> Result<u64, String> {
    // SAFETY: the guard is used to ask for properties; nothing is destroyed through it.
    let Some(adapter) = (unsafe { adapter.as_hal::<hal::Api>() }) else {
        return Err("it is not a Vulkan adapter".into());
    };
    let capabilities = adapter.physical_device_capabilities();
    if !capabilities.supports_extension(ash::ext::external_memory_host::NAME) {
        return Err("its driver can't import host memory (VK_EXT_external_memory_host)".into());
    }
    if capabilities.properties().api_version < vk::API_VERSION_1_1 {
        return Err("its driver is older than Vulkan 1.1".into());
    }
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device is one of this instance's, which lives as long as the adapter; it has Vulkan 1.1, of which
    // the call is part, and the extension, of which the structure is; both structures outlive the call.
    unsafe { instance.get_physical_device_properties2(adapter.raw_physical_device(), &mut properties) };
    match host.min_imported_host_pointer_alignment {
        alignment if alignment <= PAGE && PAGE.is_multiple_of(alignment.max(1)) => Ok(alignment.max(1)),
        alignment => Err(format!("its driver imports host memory only in multiples of {alignment} bytes")),
    }
}

/// Opens a device, with the means to import host memory if the adapter has them.
///
/// # Errors
///
/// What wgpu or the driver say.
pub(super) fn open(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<(wgpu::Device, wgpu::Queue, Option<Importer>), String> {
    if let Err(why) = alignment(adapter) {
        log::debug!("{}: {why}", adapter.get_info().name);
        let (device, queue) =
            pollster::block_on(adapter.request_device(descriptor)).map_err(|error| error.to_string())?;
        return Ok((device, queue, None));
    }
    let open = {
        // SAFETY: as above: nothing is destroyed through the guard.
        let guard = unsafe { adapter.as_hal::<hal::Api>() }.ok_or("it is not a Vulkan adapter")?;
        let callback = |arguments: hal::CreateDeviceCallbackArgs<'_, '_, '_>| {
            arguments.extensions.push(ash::ext::external_memory_host::NAME);
        };
        // SAFETY: features and limits are ones that the adapter has (they come from it); the callback only adds an extension
        // that `alignment` found the adapter to support, and whose dependencies are part of Vulkan 1.1.
        unsafe {
            guard.open_with_callback(
                descriptor.required_features,
                &descriptor.required_limits,
                &descriptor.memory_hints,
                Some(Box::new(callback)),
            )
        }
        .map_err(|error| error.to_string())?
    };
    let importer = Importer::new(&open.device);
    // SAFETY: the device was opened from this very adapter just now, with the features that the descriptor names.
    let (device, queue) = unsafe { adapter.create_device_from_hal::<hal::Api>(open, descriptor) }
        .map_err(|error| error.to_string())?;
    Ok((device, queue, Some(importer)))
}

impl Importer {
    fn new(device: &hal::Device) -> Self {
        let instance = device.shared_instance().raw_instance();
        // SAFETY: the physical device is one of this instance's, which lives as long as the device.
        let memory = unsafe { instance.get_physical_device_memory_properties(device.raw_physical_device()) };
        Importer {
            device: device.raw_device().clone(),
            functions: ash::ext::external_memory_host::Device::new(instance, device.raw_device()),
            memory_types: memory.memory_types_as_slice().iter().map(|kind| kind.property_flags).collect(),
        }
    }

    /// A buffer that is this memory. `device` must be the one that the importer was made with.
    ///
    /// # Errors
    ///
    /// What the driver says: some refuse mapped files, or memory that is shared.
    pub(super) fn import(
        &self,
        device: &wgpu::Device,
        hold: &Hold,
        addresses: Range<usize>,
    ) -> Result<wgpu::Buffer, String> {
        let page = PAGE as usize;
        let held = hold.addresses();
        let whole = addresses.start.is_multiple_of(page) && addresses.end.is_multiple_of(page);
        let inside =
            held.start / page * page <= addresses.start && addresses.end <= held.end.next_multiple_of(page);
        if addresses.is_empty() || !whole || !inside {
            return Err("it is not whole pages of memory that is held".into());
        }
        let size = addresses.len() as u64;
        let pointer = std::ptr::with_exposed_provenance_mut::<std::ffi::c_void>(addresses.start);
        let raw = RawBuffer::new(self, pointer, size).map_err(|error| error.to_string())?;
        let handle = raw.buffer;
        let hold = hold.clone();
        let release = Box::new(move || {
            // First the buffer and the driver's hold on the memory, then ours.
            drop(raw);
            drop(hold);
        });
        // SAFETY: the buffer and its memory live until wgpu-hal runs `release`, which is when it has no more use for them;
        // nobody maps the buffer, as its usage does not allow that.
        let buffer = unsafe { hal::Buffer::from_raw_externally_owned(handle, release) };
        let descriptor = wgpu::BufferDescriptor {
            label: Some("imported"),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        };
        // SAFETY: the buffer was made on this device, with this size and usage; its memory holds the guest's bytes, so it is
        // initialised; its size is not zero.
        Ok(unsafe { device.create_buffer_from_hal::<hal::Api>(buffer, &descriptor) })
    }
}

/// A Vulkan buffer and the imported memory that it is bound to.
struct RawBuffer {
    device: ash::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
}

impl RawBuffer {
    /// `size` bytes from `pointer` on, which must be mapped.
    fn new(importer: &Importer, pointer: *mut std::ffi::c_void, size: u64) -> Result<Self, vk::Result> {
        let device = &importer.device;
        let mut host = vk::MemoryHostPointerPropertiesEXT::default();
        // SAFETY: the function belongs to this device, which has the extension; the pointer is a multiple of the driver's
        // alignment, since that divides a page.
        unsafe {
            (importer.functions.fp().get_memory_host_pointer_properties_ext)(
                device.handle(),
                HANDLE,
                pointer,
                &mut host,
            )
        }
        .result()?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HANDLE);
        let info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_SRC)
            .sharing_mode(vk::SharingMode::EXCLUSIVE)
            .push_next(&mut external);
        // SAFETY: the device is open: whoever holds an importer holds the device.
        let buffer = unsafe { device.create_buffer(&info, None)? };
        // From here on, whatever was made is destroyed again if something fails.
        let mut raw = RawBuffer { device: device.clone(), buffer, memory: vk::DeviceMemory::null() };
        // SAFETY: the buffer is this device's.
        let needs = unsafe { device.get_buffer_memory_requirements(buffer) };
        let allowed = host.memory_type_bits & needs.memory_type_bits;
        let types = || (0..).zip(&importer.memory_types).filter(|(index, _)| allowed >> index & 1 != 0);
        // What the CPU wrote must be seen without being flushed.
        let coherent = types().find(|(_, flags)| flags.contains(vk::MemoryPropertyFlags::HOST_COHERENT));
        let Some((index, _)) = coherent.filter(|_| needs.size <= size) else {
            return Err(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
        };
        let mut import =
            vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HANDLE).host_pointer(pointer);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(index)
            .push_next(&mut import);
        // SAFETY: pointer and size are multiples of the driver's alignment, all of the memory is mapped (the caller's word,
        // and the driver looks, too), and the memory type is one that it can be imported as.
        raw.memory = unsafe { device.allocate_memory(&info, None)? };
        // SAFETY: both are this device's and not bound yet; the memory is as long as the buffer, and of a type that suits it.
        unsafe { device.bind_buffer_memory(buffer, raw.memory, 0)? };
        Ok(raw)
    }
}

impl Drop for RawBuffer {
    fn drop(&mut self) {
        // SAFETY: both were made on this device, are destroyed once, and are not in use: either nobody has seen them, or wgpu
        // has let go of them, which it does after the last submission that uses them. (Null memory is freed to no effect.)
        unsafe {
            self.device.destroy_buffer(self.buffer, None);
            self.device.free_memory(self.memory, None);
        }
    }
}
