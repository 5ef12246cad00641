
pub mod facts;
