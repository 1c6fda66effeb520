//! Instructions per packet, counted by callgrind and held against a file. [`count`] is what is watched, [`callgrind`] watches,
//! [`profile`] reads what it wrote, [`baseline`] is the file, [`verdict`] compares.

pub mod baseline;
pub mod callgrind;
pub mod count;
pub mod profile;
pub mod verdict;
