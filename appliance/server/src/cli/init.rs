//! `wardstone init`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use appliance_model::ruma::ServerName;
use serde_json::json;

use super::out;
use crate::settings::load::FILE_DEFAULT;
use crate::{files, keys};

/// The commented settings; `init` fills in the names.
const EXAMPLE: &str = include_str!("../../../../config/wardstone.toml");

/// Prepare a new server: settings, keys, data folder.
///
/// Asks nothing and overwrites nothing. Run it as the user that the server will run as. Then look
/// through the settings file, and keep a copy of the master key where a fire in the server room does
/// not reach: without it the data cannot be read.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wardstone init --name hospital.example\n  wardstone init --name \
                        hospital.example --config ./w/wardstone.toml --data-dir ./w/data\n\nThen:\n  \
                        wardstone config check\n  wardstone serve\n  wardstone user create \
                        --administrator ada"
)]
pub struct Init {
    /// The name after the colon in every user ID. It cannot be changed later.
    #[arg(long, value_name = "NAME")]
    name: String,

    /// The settings file to write.
    #[arg(long, value_name = "FILE", default_value = FILE_DEFAULT)]
    config: PathBuf,

    /// The folder of the store, the media and the signing key.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wardstone")]
    data_dir: PathBuf,

    /// The master key to write, outside the data folder.
    /// [default: master.key beside the settings file]
    #[arg(long, value_name = "FILE")]
    master_key_file: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Init {
    /// Prepares a server.
    pub fn run(self) -> ExitCode {
        let is_json = self.json;
        match self.prepare() {
            Ok(made) if is_json => out::json(&json!({
                "config": made.config, "data_dir": made.data_dir,
                "signing_key_file": made.signing_key, "master_key_file": made.master_key,
            })),
            Ok(made) => out::line(&made.in_words()),
            Err(reason) => {
                out::trouble(&reason);
                return super::exit::FAILED.into();
            }
        }
        ExitCode::SUCCESS
    }

    fn prepare(self) -> Result<Made, String> {
        ServerName::parse(self.name.as_str())
            .map_err(|error| format!("\"{}\" is not a server name: {error}", self.name))?;
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let config = absolute(&self.config)?;
        let data_dir = absolute(&self.data_dir)?;
        let master_key = match &self.master_key_file {
            Some(path) => absolute(path)?,
            None => config.with_file_name("master.key"),
        };
        if master_key.starts_with(&data_dir) {
            return Err(format!(
                "{} is inside the data folder: whoever copies the data would have the key to it; \
                 choose another place with --master-key-file",
                master_key.display()
            ));
        }
        let made = Made { signing_key: data_dir.join("signing.key"), config, data_dir, master_key };
        // Before anything is written: half a server is worse than none.
        for path in [&made.config, &made.signing_key, &made.master_key] {
            if path.exists() {
                return Err(format!(
                    "{} exists; nothing was changed. A server that is there already is not set up \
                     again",
                    path.display()
                ));
            }
        }
        made.write(&self.name)?;
        Ok(made)
    }
}

/// What `init` made.
struct Made {
    config: PathBuf,
    data_dir: PathBuf,
    signing_key: PathBuf,
    master_key: PathBuf,
}

impl Made {
    fn write(&self, name: &str) -> Result<(), String> {
        files::create_private_dir(&self.data_dir)?;
        keys::create_signing_key(&self.signing_key)?;
        keys::create_master_key(&self.master_key)?;
        let socket = match self.config.as_path() == Path::new(FILE_DEFAULT) {
            true => "/run/wardstone/admin.sock".into(),
            // A server of one's own keeps its socket with its data.
            false => self.data_dir.join("admin.sock"),
        };
        let settings = fill_in(&[
            ("name", name),
            ("data_dir", &self.data_dir.display().to_string()),
            ("master_key_file", &self.master_key.display().to_string()),
            ("socket", &socket.display().to_string()),
        ]);
        files::create(&self.config, &settings, 0o640)
    }

    fn in_words(&self) -> String {
        format!(
            "Wardstone is prepared.\n\n  settings     {}\n  data         {}\n  signing key  {}\n  \
             master key   {}\n\nKeep a copy of the master key outside this machine: without it the \
             data cannot be read.\n\nNext:\n  1. look through the settings: where to listen, and the \
             certificate\n  2. wardstone config check --config {}\n  3. wardstone serve --config \
             {}\n  4. wardstone user create --administrator NAME --config {}",
            self.config.display(),
            self.data_dir.display(),
            self.signing_key.display(),
            self.master_key.display(),
            self.config.display(),
            self.config.display(),
            self.config.display(),
        )
    }
}

/// The example with some values set and all others commented out, so that a later release may
/// have better defaults. Listeners stay as they are: half of one would be none.
pub fn fill_in(values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(EXAMPLE.len() + 512);
    let mut is_in_list = false;
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            is_in_list = line.starts_with("[[");
        }
        match line.split_once(" = ") {
            Some((key, _)) if !line.starts_with('#') && !is_in_list => {
                match values.iter().find(|(name, _)| *name == key) {
                    Some((_, value)) => {
                        text.push_str(&format!("{key} = {}", toml::Value::from(*value)));
                    }
                    None => text.push_str(&format!("# {line}")),
                }
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::settings::load::{Sources, load};

    fn init(folder: &Path) -> Init {
        Init {
            name: "hospital.example".into(),
            config: folder.join("etc/wardstone.toml"),
            data_dir: folder.join("data"),
            master_key_file: None,
            json: false,
        }
    }

    #[test]
    fn what_init_makes_is_a_server_that_would_start() {
        let folder = tempfile::tempdir().unwrap();
        let made = init(folder.path()).prepare().unwrap();
        let sources = Sources { file: Some(made.config.clone()), ..Sources::default() };
        let settings = load(&sources, false).unwrap().settings;
        assert_eq!(settings.server.name, "hospital.example");
        assert_eq!(settings.limits, crate::settings::Limits::default());
        keys::read_signing_key(&settings.server.signing_key_file).unwrap();
        keys::read_master_key(&settings.store.master_key_file).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&made.master_key), 0o600);
        assert_eq!(mode(&made.signing_key), 0o600);
        assert_eq!(mode(&made.data_dir), 0o700);
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_made() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/master.key"), "precious").unwrap();
        assert!(init(folder.path()).prepare().is_err());
        assert_eq!(std::fs::read(folder.path().join("etc/master.key")).unwrap(), b"precious");
        assert!(!folder.path().join("data").exists());
    }

    #[test]
    fn a_master_key_among_the_data_and_a_bad_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut bad = init(folder.path());
        bad.master_key_file = Some(folder.path().join("data/master.key"));
        assert!(bad.prepare().err().unwrap().contains("inside the data folder"));
        let mut bad = init(folder.path());
        bad.name = "not a name".into();
        assert!(bad.prepare().err().unwrap().contains("is not a server name"));
    }
}
