//! Reading the layers, and remembering where each value came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat};
use serde_json::Value;

use super::layer::{Layer, Origin, Problem};
use super::shape::{kind_name, shape, suggestion};
use super::{Settings, check};

/// Where a packaged server finds its settings.
pub const FILE_DEFAULT: &str = "/etc/wardstone/wardstone.toml";

/// Settings, a secret included, are short; a longer file is a mistake.
const FILE_BYTES_MAX: u64 = 1_048_576;

/// More files in `conf.d` are a mistake.
const FILES_MAX: usize = 256;

const VARIABLE_PREFIX: &str = "WARDSTONE__";

/// Which file of `$CREDENTIALS_DIRECTORY` sets which key.
const CREDENTIALS: [Credential; 5] = [
    Credential { file: "master_key", key: "store.master_key_file", takes: Takes::Path },
    Credential { file: "signing_key", key: "server.signing_key_file", takes: Takes::Path },
    Credential {
        file: "registration_shared_secret",
        key: "registration.shared_secret",
        takes: Takes::Content,
    },
    Credential { file: "registration_tokens", key: "registration.tokens", takes: Takes::Lines },
    Credential {
        file: "turn_shared_secret",
        key: "calls.turn_shared_secret",
        takes: Takes::Content,
    },
];

struct Credential {
    file: &'static str,
    key: &'static str,
    takes: Takes,
}

/// What becomes the value.
#[derive(Clone, Copy)]
enum Takes {
    /// The path of the file.
    Path,
    /// Its content without the line end.
    Content,
    /// A list of its lines.
    Lines,
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `wardstone.toml`; `conf.d` is looked for beside it.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: BTreeMap<String, String>,
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials_dir: Option<PathBuf>,
}

impl Sources {
    /// What this process was given; `file` is the `--config` argument. Without it,
    /// [`FILE_DEFAULT`] is read if it is there.
    pub fn of_this_process(file: Option<PathBuf>) -> Self {
        let default = || Some(PathBuf::from(FILE_DEFAULT)).filter(|path| path.exists());
        let text = |value: OsString| value.into_string().ok();
        Self {
            file: file.or_else(default),
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
                .collect(),
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }
}

/// Settings that are complete and make sense.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings; paths are absolute.
    pub settings: Settings,
    /// Where each key that somebody set came from.
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of `key` came from; parts of a list came from where the list did.
    pub fn origin(&self, key: &str) -> Origin {
        origin_of(&self.origins, key)
    }
}

fn origin_of(origins: &BTreeMap<String, Origin>, key: &str) -> Origin {
    let list = key.split('[').next().unwrap_or(key);
    let origin = origins.get(key).or_else(|| origins.get(list));
    origin.cloned().unwrap_or(Origin::Default)
}

/// A later layer replaces lists as a whole, so what was known about the old elements goes.
fn overlay(origins: &mut BTreeMap<String, Origin>, layer: BTreeMap<String, Origin>) {
    for key in layer.keys().filter(|key| !key.contains('[')) {
        let element = format!("{key}[");
        origins.retain(|known, _| !known.starts_with(&element));
    }
    origins.extend(layer);
}

/// Reads and checks the settings.
///
/// # Errors
///
/// Everything that is wrong, at once, each with its place.
pub fn load(sources: &Sources, is_conformance: bool) -> Result<Loaded, Vec<Problem>> {
    let mut stack = Stack::new();
    stack.files(sources);
    stack.variables(&sources.variables);
    if let Some(dir) = &sources.credentials_dir {
        stack.credentials(dir);
    }
    let mut loaded = stack.finish()?;
    let base = sources.file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    make_absolute(&mut loaded.settings, &base);
    let problems = check::problems(&loaded.settings, is_conformance);
    if problems.is_empty() {
        return Ok(loaded);
    }
    let with_origin =
        |(key, message): (String, String)| Problem { origin: loaded.origin(&key), key, message };
    Err(problems.into_iter().map(with_origin).collect())
}

/// The layers so far.
struct Stack {
    shape: Value,
    builder: config::ConfigBuilder<config::builder::DefaultState>,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Stack {
    fn new() -> Self {
        let mut stack = Self {
            shape: shape(),
            builder: Config::builder(),
            origins: BTreeMap::new(),
            problems: Vec::new(),
        };
        let defaults = toml::to_string(&Settings::default()).expect("settings are plain data");
        stack.add_text(&defaults);
        stack
    }

    fn problem(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.problems.push(Problem { origin, key: key.to_owned(), message: message.into() });
    }

    /// Adds a layer in TOML.
    fn add_text(&mut self, text: &str) {
        let builder = std::mem::take(&mut self.builder);
        self.builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }

    /// Adds one value.
    fn add_value(&mut self, key: &str, value: toml::Value, origin: Origin) {
        let mut keys = key.rsplit('.');
        let leaf = keys.next().unwrap_or_default();
        let mut table = toml::Table::from_iter([(leaf.to_owned(), value)]);
        for key in keys {
            table = toml::Table::from_iter([(key.to_owned(), table.into())]);
        }
        self.add_text(&table.to_string());
        overlay(&mut self.origins, BTreeMap::from([(key.to_owned(), origin)]));
    }

    fn files(&mut self, sources: &Sources) {
        let Some(main) = &sources.file else { return };
        self.file(main);
        let dir = main.with_file_name("conf.d");
        let Ok(entries) = std::fs::read_dir(&dir) else { return };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .take(FILES_MAX + 1)
            .collect();
        if paths.len() > FILES_MAX {
            return self.problem(Origin::File(dir, 1), "", format!("more than {FILES_MAX} files"));
        }
        paths.sort();
        for path in paths {
            self.file(&path);
        }
    }

    fn file(&mut self, path: &Path) {
        let text = match read(path) {
            Ok(text) => text,
            Err(message) => return self.problem(Origin::File(path.to_owned(), 1), "", message),
        };
        let layer = Layer::read(path, &text, &self.shape);
        if layer.problems.is_empty() {
            self.add_text(&text);
        }
        overlay(&mut self.origins, layer.origins);
        self.problems.extend(layer.problems);
    }

    fn variables(&mut self, variables: &BTreeMap<String, String>) {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let key = rest.to_lowercase().replace("__", ".");
            let origin = Origin::Environment(name.clone());
            match self.find(&key).and_then(|shape| parse_variable(text, shape)) {
                Ok(value) => self.add_value(&key, value, origin),
                Err(message) => self.problem(origin, &key, message),
            }
        }
    }

    /// The shape of a key, or a sentence with the nearest one.
    fn find(&self, key: &str) -> Result<&Value, String> {
        let mut here = &self.shape;
        let mut section = String::new();
        for name in key.split('.') {
            let Some(next) = here.as_object().and_then(|table| table.get(name)) else {
                let help = suggestion(&self.shape, &section, here, name);
                return Err(format!("unknown key; {help}"));
            };
            here = next;
            section = super::shape::join(&section, name);
        }
        Ok(here)
    }

    fn credentials(&mut self, dir: &Path) {
        for credential in CREDENTIALS {
            let path = dir.join(credential.file);
            if !path.exists() {
                continue;
            }
            let origin = Origin::Credential(credential.file.to_owned());
            match credential_value(&path, credential.takes) {
                Ok(value) => self.add_value(credential.key, value, origin),
                Err(message) => self.problem(origin, credential.key, message),
            }
        }
    }

    /// Puts the layers together.
    fn finish(self) -> Result<Loaded, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let wrong = |key: String, message: String| {
            vec![Problem { origin: origin_of(&self.origins, &key), key, message }]
        };
        // Through JSON, because its errors name the words that are allowed.
        let merged: Value = self
            .builder
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| wrong(String::new(), error.to_string()))?;
        let settings = serde_path_to_error::deserialize(merged)
            .map_err(|error| wrong(error.path().to_string(), error.inner().to_string()))?;
        Ok(Loaded { settings, origins: self.origins })
    }
}

fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| format!("cannot read: {error}"))?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("longer than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot read: {error}"))
}

fn credential_value(path: &Path, takes: Takes) -> Result<toml::Value, String> {
    Ok(match takes {
        Takes::Path => path.display().to_string().into(),
        Takes::Content => read(path)?.trim_end_matches(['\r', '\n']).to_owned().into(),
        Takes::Lines => {
            let lines = read(path)?;
            let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
            toml::Value::Array(lines.map(|line| line.to_owned().into()).collect())
        }
    })
}

/// A variable's text as the kind of value its key takes: texts as they are, others as in TOML.
fn parse_variable(text: &str, shape: &Value) -> Result<toml::Value, String> {
    if shape.is_string() {
        return Ok(text.into());
    }
    let expected = || format!("expected {}", kind_name(shape));
    if shape.is_object() {
        return Err("this is a section; set one of its keys".into());
    }
    let line = format!("value = {text}");
    let layer = Layer::read(Path::new(""), &line, &serde_json::json!({ "value": shape }));
    if !layer.problems.is_empty() {
        return Err(expected());
    }
    let mut table: toml::Table = line.parse().map_err(|_| expected())?;
    table.remove("value").ok_or_else(expected)
}

/// Relative paths start at the folder of the settings file, not at wherever the process was started.
fn make_absolute(settings: &mut Settings, base: &Path) {
    let Settings { server, listeners, store, federation, appservices, admin, conformance, .. } =
        settings;
    if admin.socket.as_os_str().is_empty() {
        admin.socket = server.data_dir.join("admin.sock");
    }
    if server.signing_key_file.as_os_str().is_empty() {
        server.signing_key_file = server.data_dir.join("signing.key");
    }
    let mut paths = vec![
        &mut server.data_dir,
        &mut server.signing_key_file,
        &mut store.master_key_file,
        &mut federation.extra_ca_file,
        &mut federation.client_certificate_file,
        &mut federation.client_key_file,
        &mut admin.socket,
        &mut appservices.registrations_dir,
        &mut conformance.appservice_dir,
    ];
    for tls in listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
        paths.extend([&mut tls.certificate_file, &mut tls.key_file]);
        paths.extend(tls.client_ca_file.as_mut());
    }
    for path in paths {
        if !path.as_os_str().is_empty() {
            *path = base.join(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ListenerKind, RegistrationMode, Secret};

    /// A folder with `wardstone.toml` and whatever else a test puts there.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(text: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write("wardstone.toml", text);
            folder
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        fn sources(&self) -> Sources {
            Sources { file: Some(self.0.path().join("wardstone.toml")), ..Sources::default() }
        }

        fn load(&self) -> Result<Loaded, Vec<Problem>> {
            load(&self.sources(), false)
        }

        fn only_problem(&self) -> String {
            let problems = self.load().unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            problems[0].to_string().replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    const NAMED: &str = "[server]\nname = \"hospital.example\"\n";

    #[test]
    fn each_layer_wins_over_the_one_before_and_says_so() {
        let folder = Folder::new(&format!("{NAMED}drain_ms = 1\n[media]\nttl_ms = 2000\n"));
        folder.write("conf.d/20-b.toml", "[server]\ndrain_ms = 3\n");
        folder.write("conf.d/10-a.toml", "[server]\ndrain_ms = 2\n[log]\nlevel = \"warn\"\n");
        folder.write("conf.d/ignored.txt", "nonsense");
        let mut sources = folder.sources();
        sources.variables.insert("WARDSTONE__MEDIA__TTL_MS".into(), "5000".into());
        folder.write("credentials/registration_shared_secret", "s3cret\n");
        folder.write("credentials/registration_tokens", "one\ntwo\n");
        folder.write("credentials/master_key", "binary");
        folder.write("credentials/unrelated", "left alone");
        sources.credentials_dir = Some(folder.0.path().join("credentials"));

        let loaded = load(&sources, false).unwrap();
        let settings = &loaded.settings;
        assert_eq!(settings.server.drain_ms, 3);
        assert_eq!(settings.log.level, "warn");
        assert_eq!(settings.media.ttl_ms, 5000);
        assert_eq!(settings.limits, crate::settings::Limits::default());
        assert_eq!(settings.registration.shared_secret.reveal(), "s3cret");
        assert_eq!(settings.registration.tokens[1], Secret::new("two".into()));
        assert_eq!(settings.store.master_key_file, folder.0.path().join("credentials/master_key"));

        let b = folder.0.path().join("conf.d/20-b.toml");
        assert_eq!(loaded.origin("server.drain_ms"), Origin::File(b, 2));
        let variable = Origin::Environment("WARDSTONE__MEDIA__TTL_MS".into());
        assert_eq!(loaded.origin("media.ttl_ms"), variable);
        assert_eq!(loaded.origin("media.pixels_max"), Origin::Default);
        let credential = Origin::Credential("master_key".into());
        assert_eq!(loaded.origin("store.master_key_file"), credential);
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_nearest_name() {
        let folder = Folder::new(&format!("{NAMED}drain_sm = 1\n"));
        assert_eq!(
            folder.only_problem(),
            "wardstone.toml:3: server.drain_sm: unknown key; did you mean \"server.drain_ms\"?"
        );
        let folder = Folder::new("[[listeners]]\nkind = \"client\"\nadress = \"x\"\n");
        assert_eq!(
            folder.only_problem(),
            "wardstone.toml:3: listeners[0].adress: unknown key; did you mean \
             \"listeners[0].address\"?"
        );
        let folder = Folder::new(NAMED);
        folder.write("conf.d/a.toml", "\n[medai]\nttl_ms = 1\n");
        assert_eq!(
            folder.only_problem(),
            "conf.d/a.toml:2: medai: unknown key; did you mean \"media\"?"
        );
    }

    #[test]
    fn a_wrong_kind_of_value_is_refused_without_repeating_it() {
        let folder = Folder::new(&format!("{NAMED}\n[media]\nttl_ms = \"hunter2\"\n"));
        assert_eq!(
            folder.only_problem(),
            "wardstone.toml:5: media.ttl_ms: expected a whole number, not negative, found string"
        );
        let folder = Folder::new(&format!("{NAMED}[media]\nttl_ms = -1\n"));
        assert!(folder.only_problem().contains("not negative"));
        let folder = Folder::new(&format!("{NAMED}[registration]\ntokens = [\"a\", 7]\n"));
        assert!(folder.only_problem().contains("registration.tokens[1]: expected a text"));
        let folder = Folder::new(&format!("{NAMED}[store]\nengine = \"lmbd\"\n"));
        assert_eq!(
            folder.only_problem(),
            "wardstone.toml:4: store.engine: unknown variant `lmbd`, expected `lmdb` or `sled`"
        );
        let folder = Folder::new(&format!("{NAMED}drain_ms = = 1\n"));
        assert!(folder.only_problem().starts_with("wardstone.toml:3: "));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let folder = Folder::new("[sever]\n[media]\nttl = 1\nupload_bytes_max = true\n");
        assert_eq!(folder.load().unwrap_err().len(), 3);
    }

    #[test]
    fn variables_are_checked_like_files() {
        let folder = Folder::new(NAMED);
        let problem = |name: &str, value: &str| {
            let mut sources = folder.sources();
            sources.variables.insert(name.into(), value.into());
            load(&sources, false).map(|_| ()).map_err(|problems| problems[0].to_string())
        };
        assert_eq!(
            problem("WARDSTONE__SERVER__NAM", "x").unwrap_err(),
            "environment WARDSTONE__SERVER__NAM: server.nam: unknown key; did you mean \
             \"server.name\"?"
        );
        assert_eq!(
            problem("WARDSTONE__MEDIA__TTL_MS", "soon").unwrap_err(),
            "environment WARDSTONE__MEDIA__TTL_MS: media.ttl_ms: expected a whole number, not \
             negative"
        );
        problem("WARDSTONE__SERVER__NAME", "other.example").unwrap();
        problem("WARDSTONE__ROOMS__DEFAULT_VERSION", "10").unwrap();
        problem("WARDSTONE__PRESENCE__ENABLED", "true").unwrap();
        problem("WARDSTONE__RATE_LIMITS__LOGIN__PER_SECOND", "2").unwrap();
        problem("WARDSTONE__SERVER__TRUSTED_PROXIES", "[\"unix\"]").unwrap();
        problem("WARDSTONE__SERVER", "{}").unwrap_err();
        problem("WARDSTONE__SERVER__DRAIN_MS", "1\n[log]\nlevel = 1").unwrap_err();
    }

    #[test]
    fn a_list_is_replaced_and_a_table_is_merged() {
        let folder = Folder::new(&format!(
            "{NAMED}[rate_limits]\nlogin.burst = 7\n[[listeners]]\nkind = \"client\"\naddress = \
             \"127.0.0.1:1\"\n"
        ));
        let settings = folder.load().unwrap().settings;
        assert_eq!(settings.listeners.len(), 1);
        assert_eq!(settings.listeners[0].kind, ListenerKind::Client);
        assert_eq!(
            (settings.rate_limits.login.burst, settings.rate_limits.login.per_second),
            (7, 1.0)
        );
    }

    #[test]
    fn what_types_cannot_say_is_checked_and_located() {
        let case = |text: &str| Folder::new(text).only_problem();
        assert!(case("").starts_with("server.name: is not set"));
        assert!(case("[server]\nname = \"a b\"\n").starts_with("wardstone.toml:2: server.name"));
        let with = |text: &str| case(&format!("{NAMED}{text}"));
        let listener = |kind: &str, address: &str| {
            format!(
                "[[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:1\"\n[[listeners]]\nkind \
                 = \"{kind}\"\naddress = \"{address}\"\n"
            )
        };
        assert!(with(&listener("federation", "0.0.0.0:8448")).contains("would speak plain HTTP"));
        assert!(with(&listener("metrics", "0.0.0.0:9")).contains("metrics tell strangers"));
        assert!(with(&listener("client", "127.0.0.1:1")).contains("taken by another listener"));
        assert!(with(&listener("client", "localhost")).contains("is not an address"));
        assert!(with("[rooms]\ndefault_version = \"5\"\n").contains("is not one of 6, 7"));
        assert!(with("[media]\nttl_ms = 0\n").contains("is not between"));
        assert!(with("[log]\nlevel = \"a=b=c\"\n").contains("is not a log level"));
        assert!(
            with("data_dir = \"/d\"\n[store]\nmaster_key_file = \"/d/k\"\n").contains("inside")
        );
    }

    #[test]
    fn conformance_allows_plain_http_anywhere() {
        let folder = Folder::new(&format!(
            "{NAMED}[[listeners]]\nkind = \"client\"\naddress = \"0.0.0.0:8008\"\n"
        ));
        assert!(folder.load().is_err());
        assert!(load(&folder.sources(), true).is_ok());
    }

    #[test]
    fn relative_paths_start_at_the_settings_file() {
        let folder = Folder::new(&format!("{NAMED}data_dir = \"data\"\n[admin]\nsocket = \"\"\n"));
        let settings = folder.load().unwrap().settings;
        assert_eq!(settings.server.data_dir, folder.0.path().join("data"));
        assert_eq!(settings.admin.socket, folder.0.path().join("data/admin.sock"));
        assert_eq!(settings.server.signing_key_file, folder.0.path().join("data/signing.key"));
        assert_eq!(settings.registration.mode, RegistrationMode::Closed);
    }

    const EXAMPLE: &str = include_str!("../../../../config/wardstone.toml");

    fn read_example(text: &str) -> (Settings, Layer) {
        let layer = Layer::read(Path::new("wardstone.toml"), text, &shape());
        assert_eq!(layer.problems, []);
        let mut stack = Stack::new();
        stack.add_text(text);
        (stack.finish().unwrap().settings, layer)
    }

    #[test]
    fn the_example_equals_the_defaults_and_names_every_key() {
        let (settings, _) = read_example(EXAMPLE);
        assert_eq!(settings, Settings::default());

        // What is commented out works too, and then every key there is was named.
        let all = EXAMPLE.replace("# tls = {", "tls = {");
        let (settings, layer) = read_example(&all);
        assert!(settings.listeners[0].tls.is_some());
        for path in crate::settings::shape::paths(&shape(), "") {
            assert!(layer.origins.contains_key(&path), "config/wardstone.toml lacks {path}");
        }
    }
}
