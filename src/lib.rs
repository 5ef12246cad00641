//! The map of the house.
pub mod bundle;
pub mod ca;
pub mod certificate;
pub mod clock;
pub mod facts;
pub mod file;
pub mod identity;
pub mod key;
pub mod setting;
pub mod trust;
