// SPDX-License-Identifier: Apache-2.0
//! Passes everything: what stands in a chain where an optional element is off.

use async_trait::async_trait;

use crate::core::{Api, Element};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

#[async_trait]
impl<A: Api> Element<A> for Null {
    fn name(&self) -> &'static str {
        "null"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{request, standard_cases};
    use crate::core::{NetworkService, NsRegistry, NseRegistry, Registration};

    #[tokio::test]
    async fn passes_the_standard_cases_of_every_api() {
        standard_cases::<NetworkService, _>(|| Null, request()).await;
        standard_cases::<NseRegistry, _>(|| Null, Registration::default()).await;
        standard_cases::<NsRegistry, _>(|| Null, Registration::default()).await;
    }
}
