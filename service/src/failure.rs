//! Kinds of failure: what a script or a program can tell apart.

use mig_engine::image::ImageError;
use mig_engine::{DecodeError, EncodeError, UnpackError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::wire::{Code, WireError};

/// Why something was not done; the exit codes of `mig`, and what `migd` says of a migration that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Failure {
    /// Something else, such as a file that can't be read or written.
    Failed,
    /// Something in what was asked for can't be done.
    Usage,
    /// Data that is damaged or of no known format.
    Damaged,
    /// A reference that is missing or has changed.
    Reference,
    /// The other host, or the link to it.
    OtherEnd,
    /// Somebody at the other end stopped it.
    CancelledThere,
    /// All was sent, and the destination never said that it has it.
    Unconfirmed,
    /// Somebody here stopped it.
    Cancelled,
}

impl Failure {
    /// Of which kind an error is.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Failure::Failed)
    }

    /// The exit code of a program that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Failure::Failed => 1,
            Failure::Usage => 2,
            Failure::Damaged => 3,
            Failure::Reference => 4,
            Failure::OtherEnd => 5,
            Failure::CancelledThere => 6,
            Failure::Unconfirmed => 7,
            Failure::Cancelled => 130,
        }
    }
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    if let Some(problem) = cause.downcast_ref::<Problem>() {
        return Some(match problem {
            Problem::Usage(_) => Failure::Usage,
            Problem::Reference(_) => Failure::Reference,
            Problem::Unconfirmed(_) => Failure::Unconfirmed,
            Problem::Daemon { failure, .. } => *failure,
        });
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(of_wire(error));
    }
    if let Some(EncodeError::Cancelled) = cause.downcast_ref() {
        return Some(Failure::Cancelled);
    }
    if let Some(error) = cause.downcast_ref::<UnpackError>() {
        return Some(of_decode(&error.source));
    }
    if let Some(error) = cause.downcast_ref::<DecodeError>() {
        return Some(of_decode(error));
    }
    cause.downcast_ref().and_then(of_image)
}

fn of_wire(error: &WireError) -> Failure {
    match error {
        WireError::Cancelled => Failure::Cancelled,
        WireError::CancelledThere(_) | WireError::Stopped(_) => Failure::CancelledThere,
        WireError::Keys(_) => Failure::Usage,
        WireError::Failed { code: Code::Damaged, .. } => Failure::Damaged,
        WireError::Failed { code: Code::Reference, .. } => Failure::Reference,
        _ => Failure::OtherEnd,
    }
}

/// Nothing where it was the system that refused, and not the image.
fn of_image(error: &ImageError) -> Option<Failure> {
    match error {
        ImageError::Read { .. } | ImageError::Spool { .. } | ImageError::Output { .. } => None,
        _ => Some(Failure::Damaged),
    }
}

fn of_decode(error: &DecodeError) -> Failure {
    match error {
        DecodeError::Cancelled => Failure::Cancelled,
        DecodeError::Io { .. } => Failure::Failed,
        DecodeError::Layout(error) => of_image(error).unwrap_or(Failure::Failed),
        DecodeError::MissingReference { .. } | DecodeError::Reference { .. } | DecodeError::Digest { .. } => {
            Failure::Reference
        }
        _ => Failure::Damaged,
    }
}
