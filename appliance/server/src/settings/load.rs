//! Reading the layers.

use std::path::Path;

use super::Settings;

/// Reads the settings: defaults, then `file`.
///
/// # Errors
///
/// A sentence naming the file and the key.
pub fn load(file: Option<&Path>) -> Result<Settings, String> {
    let mut builder = config::Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
    }
    builder.build().and_then(config::Config::try_deserialize).map_err(|error| error.to_string())
}
