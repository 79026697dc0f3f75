//! Memory image files: every format is read and written again bit for bit, and damage is survived.

mod check;
mod formats;
mod hostile;
mod samples;
