//! The browser: wasm-bindgen handles, no logic.
