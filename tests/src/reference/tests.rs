//! Whole streams by hand, good ones and bad ones.

mod bad;
mod damage;
mod good;
mod random_access;

use super::{LongMatch, PAGE, Page, What, identity};
use crate::handmade::cases::{ZERO, all_cases, independent, one_block, rich, small_cases};
use crate::handmade::{Block, Builder, Head, Random};
