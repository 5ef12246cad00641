//! The map of the house.
pub mod bundle;
pub mod certificate;
pub mod clock;
pub mod disk;
pub mod file;
pub mod identity;
pub mod key;
pub mod root;
pub mod setting;
pub mod trust;
