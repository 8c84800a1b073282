//! `kill -9`, two hundred times on each engine: what the server answered, it kept.

mod campaign;
mod deeds;
mod reader;
