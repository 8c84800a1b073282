//! Fuzz targets of the files that the administrator writes: a mistake is a sentence, never a panic. See
//! [`appliance_model::scenario::fuzz`].

#![cfg(test)]

use appliance_model::scenario::fuzz::Inputs;

use crate::appservices;
use crate::settings::load::{Sources, load};

fn inputs(target: &'static str, seeds: &[&[u8]]) -> Inputs {
    Inputs::of(target, env!("CARGO_MANIFEST_DIR"), seeds)
}

#[test]
fn fuzz_settings_file() {
    let example = include_bytes!("../../../config/wardstone.toml");
    let small = b"[server]\nname = \"hospital.example\"\n[egress]\nnetworks = [\"10.0.0.0/8\"]\n\
        [[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:8008\"\n";
    let mut inputs = inputs("settings", &[small, example]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wardstone.toml");
    while let Some(input) = inputs.next() {
        std::fs::write(&file, input).unwrap();
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        for problem in load(&sources, false).err().unwrap_or_default() {
            assert!(!problem.to_string().is_empty());
        }
    }
}

#[test]
fn fuzz_registration_file() {
    let seed = b"id: pager\nurl: null\nas_token: a\nhs_token: b\nsender_localpart: c\n\
        namespaces: {users: [{regex: '@p_.*', exclusive: true}]}\nx: &a [*a, <<: 1]\n";
    let bomb =
        b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n";
    let mut inputs = inputs("registration-file", &[seed, bomb]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pager.yaml");
    while let Some(input) = inputs.next() {
        std::fs::write(&file, input).unwrap();
        let _ = appservices::read(folder.path());
    }
}
