//! What an answer to nonsense must look like.

use appliance_acceptance::http::{Answer, NoAnswer};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE};

/// What a case demands beyond what every answer must keep.
#[derive(Clone, Debug)]
pub enum Demand {
    /// No fault of the server; success and refusal are both fine.
    NoFault,
    /// A refusal, with one of these errcodes.
    Refusal(&'static [&'static str]),
    /// Exactly this status and errcode.
    Exactly(u16, &'static str),
}

/// JSON that is none: "Request did not contain valid JSON." An endpoint that a server has closed
/// (`3pid`) may be closed first.
pub const NOT_JSON: Demand = Demand::Refusal(&["M_NOT_JSON", "M_THREEPID_DENIED"]);

/// JSON that is malformed in some way: wrong types, missing fields, numbers Matrix does not have.
/// What is also far too long may be refused for that.
pub const BAD_JSON: Demand = Demand::Refusal(&[
    "M_BAD_JSON",
    "M_NOT_JSON",
    "M_MISSING_PARAM",
    "M_INVALID_PARAM",
    "M_TOO_LARGE",
    "M_THREEPID_DENIED",
]);

/// A `type` that is none.
pub const BAD_TYPE: Demand =
    Demand::Refusal(&["M_BAD_JSON", "M_MISSING_PARAM", "M_INVALID_PARAM", "M_UNKNOWN"]);

/// A value of the right type that names nothing, or nothing the caller may touch.
pub const BAD_NAME: Demand = Demand::Refusal(&[
    "M_INVALID_PARAM",
    "M_BAD_JSON",
    "M_MISSING_PARAM",
    "M_NOT_FOUND",
    "M_FORBIDDEN",
    "M_UNRECOGNIZED",
    "M_UNKNOWN",
    "M_UNSUPPORTED",
]);

/// Judges one answer; `None` is praise.
pub fn fault(
    answer: &Result<Answer, NoAnswer>,
    demand: &Demand,
    from_a_page: bool,
) -> Option<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer(why)) => return Some(format!("no answer: {why}")),
    };
    let status = answer.status.as_u16();
    let complain = |what: &str| Some(format!("{what}: {}", answer.summary()));
    // A request may name another server that does not exist: then, and only then, 502 is due.
    let is_elsewhere = answer.json()["error"] == "The other server does not answer.";
    if status >= 500 && !(status == 502 && is_elsewhere) {
        return complain("a fault of the server");
    }
    // "Servers MUST ... [answer] with CORS headers on all requests."
    let origin = answer.headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
    if from_a_page && origin.is_none_or(|origin| origin != "*") {
        return complain("no CORS header");
    }
    if status < 400 {
        return match demand {
            Demand::NoFault => None,
            _ => complain("accepted"),
        };
    }
    if is_question(answer) {
        // A stage of authentication is asked for before the body is looked at.
        return None;
    }
    if !answer
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/json"))
    {
        return complain("a refusal that is no JSON");
    }
    let Some(errcode) = answer.errcode() else { return complain("a refusal without errcode") };
    let words = answer.json();
    let Some(words) = words["error"].as_str().filter(|words| !words.is_empty()) else {
        return complain("a refusal without a word to people");
    };
    if words.contains("panicked") || words.contains(".rs:") {
        return complain("a refusal that shows the inside");
    }
    let fits = match demand {
        Demand::NoFault => true,
        Demand::Refusal(errcodes) => errcodes.contains(&errcode.as_str()),
        Demand::Exactly(wanted, code) => (status, errcode.as_str()) == (*wanted, *code),
    };
    if fits { None } else { complain("another refusal than due") }
}

/// `401` with `flows`: the user-interactive authentication of password changes and the like.
pub fn is_question(answer: &Answer) -> bool {
    answer.status == 401 && answer.json()["flows"].is_array()
}

/// What a server says of a route it does not have.
pub fn is_unknown_route(answer: &Answer) -> bool {
    // 405: the path is known for another of its methods.
    matches!(answer.status.as_u16(), 404 | 405)
        && answer.errcode().as_deref() == Some("M_UNRECOGNIZED")
}
