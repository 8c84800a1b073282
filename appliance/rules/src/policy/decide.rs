//! The decision about one file, one person, one device. Pure: everything it depends on is handed in.
//!
//! What is not permitted is refused; what cannot be found out is refused by those who ask.

use appliance_model::SessionClass;

use super::classes::{Mode, watermark};
use super::field::{Field, PEERS_EPHEMERAL, UPLOAD_CAPTURE, UPLOAD_DENY};
use super::house::OPEN_WINDOW_MS;
use super::object::Effective;
use crate::{Denial, Permit};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The user; of a user of another server, the server.
    pub user_id: &'a str,
    /// Their device.
    pub device_id: &'a str,
    /// The class of their session.
    pub class: SessionClass,
    /// They uploaded the file: their own looks are not counted.
    pub is_uploader: bool,
}

/// What they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The whole file, or a range of it.
    Download,
    /// A smaller picture.
    Thumbnail,
    /// A look in the viewer.
    View,
    /// To show the file to others in a message.
    Show,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Download, Self::Thumbnail, Self::View, Self::Show];
}

/// What this server knows about the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A picture that this server can read.
    Picture,
    /// Something else that this server can read: a document, a video.
    Other,
    /// Encrypted, or taken for it.
    Opaque,
}

impl Content {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Picture, Self::Other, Self::Opaque];
}

/// The file.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// `mxc://server/id`.
    pub uri: &'a str,
    /// What it is.
    pub content: Content,
    /// The hospital's own camera page took it: it lies in no phone's gallery.
    pub is_captured: bool,
    /// A picture, or a film ([`Content::Other`]), that may hold what its camera wrote beside it: place, time,
    /// device.
    pub may_tell_place: bool,
    /// From when on nobody gets it: milliseconds since the Unix epoch; none while it is kept.
    pub deadline_ms: Option<u64>,
    /// How often it was opened, all people together.
    pub opens: u64,
    /// How often this person opened it.
    pub opens_of_user: u64,
    /// Until when this person's last opening lasts: milliseconds since the Unix epoch.
    pub open_until_ms: u64,
}

/// What is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The bytes that were uploaded.
    Original,
    /// A smaller picture.
    Thumbnail,
    /// A smaller picture with the reader's name in it.
    MarkedThumbnail,
    /// The picture with the reader's name in it, for the viewer.
    MarkedView,
    /// A picture that says where to look.
    Placeholder,
}

impl Form {
    /// As the audit trail and the ledger of copies name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Thumbnail => "thumbnail",
            Self::MarkedThumbnail => "marked-thumbnail",
            Self::MarkedView => "view",
            Self::Placeholder => "placeholder",
        }
    }
}

/// What whoever gives it out must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obligations {
    /// Give out this, and nothing else.
    pub form: Form,
    /// Write this over it, as bits of [`super::watermark`].
    pub watermark: u64,
    /// Write down one more opening first; it lasts so long, in milliseconds.
    pub counts_for_ms: Option<u64>,
    /// If nobody has opened it before: it ends so long from now, in milliseconds.
    pub ends_in_ms: Option<u64>,
    /// Mark it as something to be passed on and not kept.
    pub is_ephemeral: bool,
}

/// Permission, and what it obliges to.
#[derive(Debug)]
pub struct Permitted {
    /// For the commit that puts it on record.
    pub permit: Permit,
    /// What must be done.
    pub obligations: Obligations,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its time is over: it is not there.
    Gone,
    /// It is there, and not for them.
    Denied(Denial),
}

/// Judges.
///
/// # Errors
///
/// [`Refused`], with a reason for the person refused.
pub fn decide(
    policy: &Effective,
    subject: &Subject<'_>,
    action: Action,
    object: &Object<'_>,
    now_ms: u64,
) -> Result<Permitted, Refused> {
    if object.deadline_ms.is_some_and(|deadline_ms| now_ms >= deadline_ms) {
        return Err(Refused::Gone);
    }
    if action == Action::Show {
        return show(policy, subject, object);
    }
    let mut mode = Mode::of(policy.get(Field::mode_of(subject.class)));
    // Whoever asks without a lease gets what is for everybody, or nothing ([`super::lend`]). Without one,
    // nothing tells hospitals of our kind from others, so the stricter word holds.
    let said = [Field::FederationOurs, Field::FederationOther];
    let said = said.into_iter().filter_map(|field| policy.get(field)).max().unwrap_or_default();
    let is_peer = subject.class == SessionClass::PeerUser;
    if is_peer && said > PEERS_EPHEMERAL {
        mode = Mode::Deny;
    }
    let form = form(mode, action, object.content).map_err(|why| denied(subject, object, why))?;
    let is_look = form != Form::Placeholder && !subject.is_uploader;
    let is_open = now_ms < object.open_until_ms;
    let is_counted = policy.get(Field::OpensMax).is_some()
        || policy.get(Field::OpensPerUserMax).is_some()
        || policy.get(Field::TtlAfterOpenMs).is_some();
    let counts = is_look && is_counted && !is_open;
    if counts {
        check_opens(policy, object).map_err(|why| denied(subject, object, why))?;
    }
    let window_ms = policy.get(Field::OpenWindowMs).unwrap_or(OPEN_WINDOW_MS).min(OPEN_WINDOW_MS);
    let is_marked = matches!(form, Form::MarkedThumbnail | Form::MarkedView);
    // A marked picture always says who and when; a policy can only ask for more.
    let marks = policy.get(Field::Watermark).unwrap_or(0) | watermark::USER | watermark::TIME;
    let obligations = Obligations {
        form,
        watermark: if is_marked { marks } else { 0 },
        counts_for_ms: counts.then_some(window_ms),
        ends_in_ms: policy.get(Field::TtlAfterOpenMs).filter(|_| counts),
        is_ephemeral: is_peer && said == PEERS_EPHEMERAL,
    };
    let who = who(subject);
    let what = format!("{} {}", object.uri, form.as_str());
    Ok(Permitted { permit: Permit::audited("media.delivered", who, what), obligations })
}

/// Which form of a file a device gets that may have it in this mode.
fn form(mode: Mode, action: Action, content: Content) -> Result<Form, &'static str> {
    const ENCRYPTED: &str = "Your hospital's policy keeps files of this room off devices that it \
         does not look after. This one is encrypted, so there is no other way to show it here.";
    const NO_PICTURE: &str = "Your hospital's policy keeps files of this room off devices that it \
         does not look after.";
    const DENIED: &str = "Your hospital's policy does not give files of this room to this device.";
    let no_substitute = match content {
        Content::Picture => None,
        Content::Other => Some(NO_PICTURE),
        Content::Opaque => Some(ENCRYPTED),
    };
    match (mode, action) {
        (Mode::Deny, _) | (_, Action::Show) => Err(DENIED),
        (Mode::Original, Action::Download) => Ok(Form::Original),
        (Mode::Original, Action::Thumbnail) => Ok(Form::Thumbnail),
        // What is not the original is a picture made by this server, or nothing.
        (_, _) if no_substitute.is_some() => Err(no_substitute.unwrap_or(DENIED)),
        (Mode::Original | Mode::Viewer, Action::View) => Ok(Form::MarkedView),
        (Mode::Thumbnail, _) => Ok(Form::MarkedThumbnail),
        (Mode::Placeholder, Action::View) => Err(DENIED),
        (Mode::Viewer | Mode::Placeholder, _) => Ok(Form::Placeholder),
    }
}

fn check_opens(policy: &Effective, object: &Object<'_>) -> Result<(), &'static str> {
    let is_reached = |field, opens| policy.get(field).is_some_and(|max| opens >= max);
    if is_reached(Field::OpensPerUserMax, object.opens_of_user) {
        return Err("You have opened this file as often as its room allows.");
    }
    if is_reached(Field::OpensMax, object.opens) {
        return Err("This file has been opened as often as its room allows.");
    }
    Ok(())
}

/// Pictures in clear from a device that the hospital does not look after: they lie in that device's
/// gallery, and the policy may not want that.
fn show(
    policy: &Effective,
    subject: &Subject<'_>,
    object: &Object<'_>,
) -> Result<Permitted, Refused> {
    const DENIED: &str = "Your hospital's policy takes files for this room from devices that it \
         looks after only.";
    const CAPTURE: &str = "Your hospital's policy takes no files for this room from this device: \
         they would stay in its gallery. Take the photo with your hospital's camera page instead.";
    const TELLS_PLACE: &str = "Your hospital's policy takes pictures for this room only without what \
         cameras write beside them (place, time, device). Send the photo again, as JPEG, PNG or WebP: \
         that is taken out then.";
    const FILM: &str = "Your hospital's policy takes films for this room only without what cameras write \
         into them (place, time, device), or from devices that it looks after. Send the film again, as MP4 \
         or MOV: that is taken out then, where it can be.";
    let tells_place = object.may_tell_place && policy.get(Field::StripMetadata) == Some(1);
    let why = match policy.get(Field::UploadFromUnmanaged) {
        _ if tells_place && object.content == Content::Picture => Some(TELLS_PLACE),
        // The hospital can see to it that its own devices write no place.
        _ if tells_place && subject.class != SessionClass::Managed => Some(FILM),
        _ if subject.class == SessionClass::Managed => None,
        None | Some(0) => None,
        Some(UPLOAD_CAPTURE) => (!object.is_captured).then_some(CAPTURE),
        Some(UPLOAD_DENY..) => Some(DENIED),
    };
    if let Some(why) = why {
        return Err(denied(subject, object, why));
    }
    let who = who(subject);
    let obligations = Obligations {
        form: Form::Original,
        watermark: 0,
        counts_for_ms: None,
        ends_in_ms: None,
        is_ephemeral: false,
    };
    Ok(Permitted { permit: Permit::audited("media.shown", who, object.uri), obligations })
}

fn who(subject: &Subject<'_>) -> String {
    format!("{} {}", subject.user_id, subject.device_id).trim_end().to_owned()
}

pub(super) fn denied(subject: &Subject<'_>, object: &Object<'_>, why: &'static str) -> Refused {
    Refused::Denied(Denial {
        verb: "media.refused",
        who: who(subject),
        object: object.uri.to_owned(),
        why: why.into(),
    })
}

#[cfg(test)]
mod tests;
