//! Where native and browser differ, and nowhere else.

#[cfg(not(target_arch = "wasm32"))]
#[path = "platform/native.rs"]
mod here;
#[cfg(target_arch = "wasm32")]
#[path = "platform/web.rs"]
mod here;
#[cfg(target_arch = "wasm32")]
pub mod web_source;

pub use here::*;
