//! The files of the tests of whole models: read from disk natively, fetched from the tests' server in a browser.

#[cfg(not(target_arch = "wasm32"))]
mod here {
    use std::path::PathBuf;

    /// The project's folder: as cargo says, or whoever runs the tests on another machine (`scripts/gpu-check.sh`).
    fn root() -> PathBuf {
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()).into()
    }

    /// Where a file of other people's data would be.
    pub fn shared_path(name: &str) -> PathBuf {
        root().join("../shared/data").join(name)
    }

    pub(super) async fn golden(name: &str) -> Vec<u8> {
        std::fs::read(root().join("tests/golden").join(name)).unwrap()
    }

    pub(super) async fn shared(name: &str) -> Option<Vec<u8>> {
        let path = shared_path(name);
        path.exists().then(|| std::fs::read(path).unwrap())
    }

    /// Says that something could not be checked; `scripts/test.mjs` counts the test as skipped.
    pub fn not_checked(what: &str) {
        eprintln!("NOT CHECKED: {what}");
    }
}

#[cfg(target_arch = "wasm32")]
mod here {
    use gloo_net::http::Request;
    use std::cell::RefCell;

    thread_local! {
        /// What could not be checked.
        pub static NOT_CHECKED: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
    }

    pub(super) async fn golden(name: &str) -> Vec<u8> {
        fetch(&format!("/golden/{name}")).await.unwrap()
    }

    pub(super) async fn shared(name: &str) -> Option<Vec<u8>> {
        fetch(&format!("/shared/{name}")).await
    }

    async fn fetch(address: &str) -> Option<Vec<u8>> {
        let response = Request::get(address).send().await.unwrap();
        if response.status() == 404 {
            return None;
        }
        assert!(response.ok(), "{address}: HTTP {}", response.status());
        Some(response.binary().await.unwrap())
    }

    /// Says that something could not be checked.
    pub fn not_checked(what: &str) {
        NOT_CHECKED.with_borrow_mut(|all| all.push(what.to_owned()));
    }
}

pub use here::*;

/// A file of `tests/golden`.
pub async fn golden(name: &str) -> Vec<u8> {
    here::golden(name).await
}

/// A file of other people's data, or `None`, said out loud, where the folder is missing.
pub async fn shared(name: &str) -> Option<Vec<u8>> {
    let bytes = here::shared(name).await;
    if bytes.is_none() {
        not_checked(&format!("../shared/data/{name} is missing"));
    }
    bytes
}
