//! Registrations of application services in a folder: one YAML file each, as every bridge writes
//! them.

use std::path::Path;

use serde_json::Value;

/// A registration is a page of text; what is larger is something else.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// More files than application services can be registered.
const FILES_MAX: usize = 1_000;

/// Reads all files `*.yaml` and `*.yml` of a folder, sorted by name: path and content. An empty
/// path means that there are none.
///
/// # Errors
///
/// A sentence for the administrator that names the file. Never what is in it: tokens are.
pub fn read(folder: &Path) -> Result<Vec<(String, Value)>, String> {
    if folder.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let trouble = |error| format!("cannot read the registrations in {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(trouble)?.take(FILES_MAX) {
        let path = entry.map_err(trouble)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok((path.display().to_string(), read_file(path)?))).collect()
}

fn read_file(path: &Path) -> Result<Value, String> {
    let trouble = |error| format!("cannot read {}: {error}", path.display());
    if std::fs::metadata(path).map_err(trouble)?.len() > FILE_BYTES_MAX {
        return Err(format!("{} is larger than 256 KiB: no registration", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(trouble)?;
    // The parser shows the lines around a mistake, and a token may stand in them.
    serde_saphyr::from_str(&text).map_err(|error| match error.location() {
        Some(at) => format!("{} is no YAML: see line {}", path.display(), at.line()),
        None => format!("{} is no YAML", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_files_are_read_in_order_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "b.yml",
            "id: pager\nurl: null\nnamespaces: {users: [{regex: '@p_.*', exclusive: true}]}",
        );
        write("a.yaml", "# made by the bridge\nid: \"letters\"\nrate_limited: false\n");
        write("notes.txt", "{");
        let read = read(folder.path()).unwrap();
        assert_eq!(read.len(), 2);
        assert!(read[0].0.ends_with("a.yaml"));
        assert_eq!(read[0].1, serde_json::json!({ "id": "letters", "rate_limited": false }));
        assert_eq!(read[1].1["url"], Value::Null);
        assert_eq!(read[1].1["namespaces"]["users"][0]["exclusive"], true);
        assert!(super::read(Path::new("")).unwrap().is_empty());
    }

    #[test]
    fn a_broken_file_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let text = "id: pager\nas_token: \"planted-token\n  x: [";
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let refused = read(folder.path()).unwrap_err();
        assert!(refused.contains("a.yaml") && !refused.contains("planted"), "{refused}");
        let bomb = format!("a: &a [x]\nb: {}", "[".repeat(100_000));
        std::fs::write(folder.path().join("a.yaml"), bomb).unwrap();
        assert!(read(folder.path()).is_err());
        assert!(read(&folder.path().join("nowhere")).unwrap_err().contains("nowhere"));
    }
}
