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

/// Work for [`vectorised`]: a struct, because a closure cannot be made to be inlined.
pub trait Work {
    /// Does it. Must be `#[inline(always)]`: what is not inlined is compiled for the plainest processor.
    fn run(self);
}
