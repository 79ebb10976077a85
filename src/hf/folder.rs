//! A folder's JSON files, and the values in them.

use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Error, Result};

/// Longest JSON file that is read, in bytes. The largest `tokenizer.json` around has 33 MB.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// A model's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
}

impl Folder {
    /// A text file; `None` if there is none of this name.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let path = self.path.join(name);
        let failed = |reason: String| Error::Read { what: path.display().to_string(), reason };
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
            Ok(metadata) if !metadata.is_file() => return Err(failed("it is not a regular file".into())),
            Ok(metadata) if metadata.len() > MAX_JSON_BYTES => {
                return Err(failed(format!("{} bytes are too many for such a file", metadata.len())));
            }
            Ok(_) => {}
        }
        std::fs::read_to_string(&path).map(Some).map_err(|error| failed(error.to_string()))
    }

    /// A JSON file; `None` if there is none of this name.
    pub(super) fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).map_err(|error| Error::Read {
            what: self.path.join(name).display().to_string(),
            reason: format!("not JSON: {error}"),
        })
    }

    /// A JSON file that must be there.
    pub(super) fn required(&self, name: &str) -> Result<Value> {
        self.json(name)?.ok_or_else(|| Error::Read {
            what: self.path.join(name).display().to_string(),
            reason: "there is no such file".into(),
        })
    }
}

/// The values of `config.json`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'a>(pub(super) &'a Value);

impl<'a> Json<'a> {
    /// The value under the first of these names that is there and not null.
    pub(super) fn get(self, names: &[&str]) -> Option<&'a Value> {
        names.iter().map(|name| &self.0[*name]).find(|value| !value.is_null())
    }

    /// A whole number below 2³².
    pub(super) fn number(self, names: &[&str]) -> Result<Option<u32>> {
        let wrong = |value: &Value| Error::Model(format!("config.json: {} = {value}", names[0]));
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.get(names).map(|value| number(value).ok_or_else(|| wrong(value))).transpose()
    }

    /// A whole number above zero that must be there.
    pub(super) fn size(self, names: &[&str]) -> Result<u32> {
        match self.number(names)? {
            Some(0) => Err(Error::Model(format!("config.json: {} = 0", names[0]))),
            Some(size) => Ok(size),
            None => Err(Error::Model(format!("config.json: {} is missing", names[0]))),
        }
    }

    /// A float.
    pub(super) fn float(self, names: &[&str]) -> Result<Option<f64>> {
        let wrong = |value: &Value| Error::Model(format!("config.json: {} = {value}", names[0]));
        self.get(names).map(|value| value.as_f64().ok_or_else(|| wrong(value))).transpose()
    }

    /// A truth value; anything else is `None`.
    pub(super) fn flag(self, names: &[&str]) -> Option<bool> {
        self.get(names)?.as_bool()
    }

    /// A list of floats that must be there.
    pub(super) fn floats(self, name: &str) -> Result<Vec<f32>> {
        let list = self.0[name].as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        let list = list.ok_or_else(|| Error::Model(format!("config.json: {name} is no list of numbers")))?;
        Ok(list.into_iter().map(|number| number as f32).collect())
    }
}

/// A name out of a file as one short line.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}
