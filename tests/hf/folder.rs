//! Folders made for a test: small models whose weights say where they stood.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A folder that is gone when the test is over.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sinkstream-hf-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A copy of the golden folder.
    pub(crate) fn golden(name: &str) -> Self {
        let folder = Self::new(name);
        for entry in std::fs::read_dir(golden()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.0.join(entry.file_name())).unwrap();
        }
        folder
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    /// Changes one of its JSON files.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&std::fs::read(self.0.join(name)).unwrap()).unwrap();
        change(&mut json);
        self.write(name, json.to_string());
    }

    /// Writes `model.safetensors` in F32.
    pub(crate) fn weights(&self, tensors: &[(&str, &[u64], Vec<f32>)]) {
        let (mut header, mut data) = (Map::new(), vec![]);
        for (name, shape, values) in tensors {
            let start = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            header
                .insert((*name).into(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
        }
        self.write("model.safetensors", with_header(&Value::Object(header).to_string(), &data));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Length, header, data.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf_llama")
}
