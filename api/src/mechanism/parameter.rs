// SPDX-License-Identifier: Apache-2.0
//! The tables that turn keys of parameters into methods, and how a parameter's text is read.

use crate::text::decimal;

/// What a text means as a yes or no; what is neither is no.
pub(super) fn flag(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")
}

/// The number that `text` spells if it has at most `bits` bits, else 0.
pub(super) fn bits<T: TryFrom<u64> + Default>(text: &str, bits: u32) -> T {
    let number = decimal::<u64>(text).filter(|number| number >> bits == 0);
    number
        .and_then(|number| T::try_from(number).ok())
        .unwrap_or_default()
}

/// Declares a view of the mechanisms of one type.
macro_rules! view {
    ($(#[$doc:meta])+ $view:ident = $type:ident) => {
        $(#[$doc])+
        ///
        /// `M` is `&Mechanism` to read, `&mut Mechanism` or `Mechanism` to write as well.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $view<M>(M);

        impl<M: std::borrow::Borrow<crate::connection::Mechanism>> $view<M> {
            #[doc = concat!("A view of `mechanism` if its type is exactly `", stringify!($type), "`.")]
            /// Its class is not looked at.
            pub fn of(mechanism: M) -> Option<Self> {
                (mechanism.borrow().r#type == super::$type).then_some(Self(mechanism))
            }

            /// The mechanism itself.
            pub fn mechanism(&self) -> &crate::connection::Mechanism {
                self.0.borrow()
            }
        }
    };
}

/// Gives a view a getter and a setter for each parameter of a table: text (`str`), yes or no (`bool`), an
/// address (`ip`) or a number, which reads as 0 if it is none or does not fit.
macro_rules! parameters {
    ($view:ident: $($(#[$doc:meta])+ $get:ident, $set:ident: $type:tt = $key:ident;)+) => {
        impl<M: std::borrow::Borrow<crate::connection::Mechanism>> $view<M> {
            $(parameters!(@get $(#[$doc])+ $get: $type = $key);)+
        }

        impl<M: std::borrow::BorrowMut<crate::connection::Mechanism>> $view<M> {
            $(parameters!(@set $get, $set: $type = $key);)+
        }
    };
    (@get $(#[$doc:meta])+ $get:ident: str = $key:ident) => {
        $(#[$doc])+
        pub fn $get(&self) -> &str {
            self.mechanism().parameter(super::key::$key)
        }
    };
    (@get $(#[$doc:meta])+ $get:ident: bool = $key:ident) => {
        $(#[$doc])+
        pub fn $get(&self) -> bool {
            super::parameter::flag(self.mechanism().parameter(super::key::$key))
        }
    };
    (@get $(#[$doc:meta])+ $get:ident: ip = $key:ident) => {
        $(#[$doc])+
        pub fn $get(&self) -> Option<std::net::IpAddr> {
            self.mechanism().parameter(super::key::$key).parse().ok()
        }
    };
    (@get $(#[$doc:meta])+ $get:ident: $number:ident = $key:ident) => {
        $(#[$doc])+
        pub fn $get(&self) -> $number {
            crate::text::decimal(self.mechanism().parameter(super::key::$key)).unwrap_or(0)
        }
    };
    (@set $get:ident, $set:ident: str = $key:ident) => {
        #[doc = concat!("Sets [`Self::", stringify!($get), "`].")]
        pub fn $set(&mut self, value: impl Into<String>) {
            self.0.borrow_mut().set_parameter(super::key::$key, value);
        }
    };
    (@set $get:ident, $set:ident: ip = $key:ident) => {
        parameters!(@write $get, $set, std::net::IpAddr, $key);
    };
    (@set $get:ident, $set:ident: $type:ident = $key:ident) => {
        parameters!(@write $get, $set, $type, $key);
    };
    (@write $get:ident, $set:ident, $type:ty, $key:ident) => {
        #[doc = concat!("Sets [`Self::", stringify!($get), "`].")]
        pub fn $set(&mut self, value: $type) {
            self.0.borrow_mut().set_parameter(super::key::$key, value.to_string());
        }
    };
}

pub(super) use {parameters, view};
