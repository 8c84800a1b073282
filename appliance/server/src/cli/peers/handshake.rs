//! `wardstone peers invite | accept`: two hospitals begin to exchange rooms.

use std::io::Read;
use std::process::ExitCode;

use appliance_services::peers::Terms;
use clap::Args;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::Value;

use super::{Common, Contract, Named, order, pair, refuse, text};
use crate::admin::Order;

/// An offer or an answer has some 400 characters; with texts of full length, some thousands.
const LETTER_BYTES_MAX: u64 = 64 * 1024;

/// Offer a server to exchange rooms with it.
///
/// Prints an offer for its administrator: text and a QR code, good for 48 hours, once. They run
/// `wardstone peers accept OFFER` and send back an answer; run `wardstone peers accept ANSWER` here. Then
/// both see the same six words: read them to each other on the phone. If they are the same, both run
/// `wardstone peers resume`, and rooms can be shared. Until then, nothing is exchanged.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone peers invite hospital-b.example --our-name 'Hospital A' \
                        --our-contact '+49 30 999' --contract 2026/17 --valid-until 2027-12-31"
)]
pub struct Invite {
    #[command(flatten)]
    peer: Named,
    #[command(flatten)]
    ours: Ours,
    #[command(flatten)]
    contract: Contract,
}

/// Accept an offer to exchange rooms, or the answer to an offer of this server.
///
/// Puts the other server on the list with its name, its key and the terms, but suspended: both sides see
/// the same six words, and compare them on the phone before `wardstone peers resume` lets it in.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone peers accept wardstone-offer-gkFY… --our-name 'Hospital B'\n  \
                        wardstone peers accept - <offer.txt"
)]
pub struct Accept {
    /// The offer or the answer; - reads it from standard input.
    letter: String,
    #[command(flatten)]
    ours: Ours,
    #[command(flatten)]
    common: Common,
}

// What the other side will read of this organisation.
#[derive(Args)]
struct Ours {
    /// The name of this organisation, for the other side's list.
    #[arg(long, value_name = "NAME")]
    our_name: Option<String>,
    /// Whom to call here, for the other side's list.
    #[arg(long, value_name = "CONTACT")]
    our_contact: Option<String>,
    /// Whose law holds here, e.g. DE.
    #[arg(long, value_name = "JURISDICTION")]
    our_jurisdiction: Option<String>,
    /// A number that this organisation has in a register: REGISTER=NUMBER, e.g. ods=RJ1.
    #[arg(long, value_name = "REGISTER=NUMBER", value_parser = pair)]
    our_id: Vec<(String, String)>,
}

impl Ours {
    fn terms(self) -> Terms {
        Terms {
            legal_name: self.our_name,
            contact: self.our_contact,
            jurisdiction: self.our_jurisdiction,
            identifiers: (!self.our_id.is_empty()).then(|| self.our_id.into_iter().collect()),
            ..Terms::default()
        }
    }
}

impl Invite {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        let terms = Terms {
            contract: self.contract.contract,
            valid_from: self.contract.valid_from,
            valid_until: self.contract.valid_until,
            ..self.ours.terms()
        };
        let order = Order::InvitePeer { server_name: self.peer.server, terms };
        order::give(self.peer.common, order, None, |answer| {
            let (name, offer) = (text(&answer["server_name"]), text(&answer["offer"]));
            format!(
                "Send this to the administrator of {name}. It is good for 48 hours, once:\n\n{}\n\n\
                 There:  wardstone peers accept OFFER\nHere, with what they send back:  wardstone \
                 peers accept ANSWER",
                with_picture(&offer)
            )
        })
    }
}

impl Accept {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        let letter = match self.letter.as_str() {
            "-" => {
                let mut read = String::new();
                let input = std::io::stdin().lock().take(LETTER_BYTES_MAX);
                match { input }.read_to_string(&mut read) {
                    Ok(_) => read,
                    Err(error) => return refuse(&format!("standard input: {error}")),
                }
            }
            _ => self.letter,
        };
        let order = Order::AcceptPeer { letter, terms: self.ours.terms() };
        order::give(self.common, order, None, accepted)
    }
}

fn accepted(answer: &Value) -> String {
    let name = text(&answer["server_name"]);
    let mut lines = Vec::new();
    if let Some(reply) = answer["answer"].as_str() {
        lines.push(format!("Send this back to the administrator of {name}:\n"));
        lines.push(with_picture(reply));
        lines.push("\nThey run:  wardstone peers accept ANSWER\n".to_owned());
    }
    let who = text(&answer["legal_name"]);
    let who = if who.is_empty() { String::new() } else { format!(" ({who})") };
    lines.push(format!(
        "{name}{who} is on the list, suspended, until you have compared these words with them on the \
         phone:\n\n    {}\n\nThe same there? Then both sides let each other in; here:  wardstone peers \
         resume {name}\nOther words? Somebody has changed a letter on its way; take it off:  wardstone \
         peers remove {name}",
        text(&answer["check_phrase"])
    ));
    lines.join("\n")
}

/// A letter and its QR code, which is left out if it would not fit into one.
fn with_picture(letter: &str) -> String {
    match QrCode::with_error_correction_level(letter, EcLevel::L) {
        Ok(code) => format!("{letter}\n\n{}", code.render::<Dense1x2>().build()),
        Err(_) => letter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_comes_with_its_picture_if_it_fits() {
        let drawn = with_picture(&format!("wardstone-offer-{}", "gkFY".repeat(90)));
        let widths: Vec<_> = drawn.lines().skip(2).map(|line| line.chars().count()).collect();
        assert!(widths.len() > 30 && widths.iter().all(|width| *width == widths[0]), "{drawn}");
        assert!(widths[0] < 80, "it fits on a terminal: {}", widths[0]);
        let long = "x".repeat(5_000);
        assert_eq!(with_picture(&long), long);
    }
}
