//! Devices: how the document names them, and the backends that drive them.

mod device;

pub use device::{Device, DeviceError, checked_devices};
