// SPDX-License-Identifier: Apache-2.0
//! How a client asks for a network service in one line:
//! `[mechanism://]service[@domain][/interface][?label=value&…]`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::connection::Mechanism;
use crate::interface_name::{self, InterfaceNameError};
use crate::matching::Labels;
use crate::mechanism::{KERNEL, Kernel, LOCAL, MEMIF, NOOP, VFIO, key};
use crate::text::excerpt;

/// What a client asks for.
///
/// ```
/// use nsm_api::service_url::ServiceUrl;
/// let url: ServiceUrl = "kernel://vpn@my.cluster2/nsm-1?app=gateway".parse()?;
/// assert_eq!(url.network_service, "vpn@my.cluster2");
/// assert_eq!(url.mechanism.parameter("name"), "nsm-1");
/// assert_eq!(url.labels["app"], "gateway");
/// # Ok::<(), nsm_api::service_url::ServiceUrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceUrl {
    /// The service, with `@domain` if it is another domain's.
    pub network_service: String,
    /// The client's labels. A label that is repeated has all its values, joined by commas.
    pub labels: Labels,
    /// The mechanism that the client prefers: of class `LOCAL` and the scheme's type, with the interface's
    /// name if there is one.
    pub mechanism: Mechanism,
}

/// Why a text asks for no service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("service URL {url:?} {problem}")]
pub struct ServiceUrlError {
    url: String,
    problem: Problem,
}

/// What is wrong with a service URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum Problem {
    #[error("names no service, write mechanism://service/interface?label=value")]
    NoService,
    #[error("has a ':' in the service's name, write mechanism://service without a port")]
    Port,
    #[error("has a service with white space, a control character or '/' in its name, use other characters")]
    Service,
    #[error("separates labels by ';', use '&', or %3B for a semicolon in a label")]
    Semicolon,
    #[error("has a scheme of other characters than letters, digits, '+', '-' and '.'")]
    Scheme,
    #[error("has a '%' that is not followed by two hexadecimal digits or makes no UTF-8, write '%' as %25")]
    Escape,
    #[error("asks for mechanism {0:?}, use kernel, memif, vfio or noop")]
    Mechanism(String),
    #[error("has a bad interface: {0}")]
    Interface(InterfaceNameError),
}

impl ServiceUrl {
    /// Reads a URL without asking whether anyone can serve it: any scheme is a mechanism, upper-cased, and
    /// any text an interface's name. Without a scheme the mechanism is `KERNEL`.
    ///
    /// Use [`str::parse`] where a person wrote the URL: it also does [`ServiceUrl::check`].
    pub fn parse(text: &str) -> Result<Self, ServiceUrlError> {
        read(text).map_err(|problem| ServiceUrlError::new(text, problem))
    }

    /// Reads a list of URLs, separated by commas, each as [`str::parse`] does. Blanks around them and empty
    /// items are skipped.
    pub fn parse_list(texts: &str) -> Result<Vec<Self>, ServiceUrlError> {
        let texts = texts.split(',').map(str::trim).filter(|text| !text.is_empty());
        texts.map(str::parse).collect()
    }

    /// Checks that there is such a mechanism, and for `kernel` that Linux takes the interface's name.
    pub fn check(&self) -> Result<(), ServiceUrlError> {
        let problem = if !matches!(self.mechanism.r#type.as_str(), KERNEL | MEMIF | VFIO | NOOP) {
            Problem::Mechanism(excerpt(&self.mechanism.r#type.to_lowercase()))
        } else if let Err(error) = self.check_interface() {
            Problem::Interface(error)
        } else {
            return Ok(());
        };
        Err(ServiceUrlError::new(&self.to_string(), problem))
    }

    fn check_interface(&self) -> Result<(), InterfaceNameError> {
        match Kernel::of(&self.mechanism)
            .as_ref()
            .map_or("", Kernel::interface_name)
        {
            "" => Ok(()),
            name => interface_name::check(name),
        }
    }
}

impl FromStr for ServiceUrl {
    type Err = ServiceUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Self::parse(text)?;
        url.check()?;
        Ok(url)
    }
}

/// The URL without its labels, for logs.
impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.mechanism.r#type.to_lowercase();
        write!(f, "{scheme}://{}", self.network_service)?;
        match self.mechanism.parameter(key::INTERFACE_NAME) {
            "" => Ok(()),
            name => write!(f, "/{name}"),
        }
    }
}

impl ServiceUrlError {
    fn new(url: &str, problem: Problem) -> Self {
        Self {
            url: excerpt(url),
            problem,
        }
    }
}

fn read(text: &str) -> Result<ServiceUrl, Problem> {
    let text = text.split_once('#').map_or(text, |(text, _fragment)| text);
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (scheme, text) = text.split_once("://").unwrap_or((KERNEL, text));
    let (service, path) = match text.find('/') {
        Some(slash) => text.split_at(slash),
        None => (text, ""),
    };
    let mut mechanism = Mechanism::new(LOCAL, mechanism_type(scheme)?);
    let path = unescape(path)?;
    if let Some((_, interface)) = path.rsplit_once('/') {
        mechanism.set_parameter(key::INTERFACE_NAME, interface);
    }
    Ok(ServiceUrl {
        network_service: network_service(service)?,
        labels: labels(query)?,
        mechanism,
    })
}

fn mechanism_type(scheme: &str) -> Result<String, Problem> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let starts_well = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts_well || !scheme.bytes().all(is_part) {
        return Err(Problem::Scheme);
    }
    Ok(scheme.to_ascii_uppercase())
}

/// The name of the service: what would be user and host in another URL.
fn network_service(text: &str) -> Result<String, Problem> {
    if text.contains(':') {
        return Err(Problem::Port);
    }
    let service = unescape(text)?;
    if service.is_empty() || service.starts_with('@') {
        return Err(Problem::NoService);
    }
    let is_odd = |character: char| character.is_whitespace() || character.is_control() || character == '/';
    if service.contains(is_odd) {
        return Err(Problem::Service);
    }
    Ok(service)
}

fn labels(query: &str) -> Result<Labels, Problem> {
    if query.contains(';') {
        return Err(Problem::Semicolon);
    }
    let mut labels = Labels::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = unescape(&name.replace('+', " "))?;
        let value = unescape(&value.replace('+', " "))?;
        labels
            .entry(name)
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert(value);
    }
    Ok(labels)
}

/// Replaces `%` and two hexadecimal digits by the byte that they are.
fn unescape(text: &str) -> Result<String, Problem> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(Problem::Escape)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Problem::Escape);
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| Problem::Escape)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| Problem::Escape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> ServiceUrl {
        text.parse().expect("a good URL")
    }

    fn error(text: &str) -> String {
        text.parse::<ServiceUrl>().expect_err("a bad URL").to_string()
    }

    /// Registry case C135.
    #[test]
    fn every_part_finds_its_place() {
        let url = parsed("kernel://s@d/if0?a=b");
        assert_eq!(url.network_service, "s@d");
        assert_eq!(url.mechanism.r#type, "KERNEL");
        assert!(url.mechanism.is_local());
        assert_eq!(url.mechanism.parameter("name"), "if0");
        assert_eq!(url.labels, [("a".to_string(), "b".to_string())].into());
        assert_eq!(url.to_string(), "kernel://s@d/if0");
    }

    /// Registry case C33.
    #[test]
    fn repeated_labels_are_joined() {
        let url = parsed("kernel://s?a=1&b=%20&a=2&c&&d=x+y");
        let labels: Vec<_> = url
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(labels, ["a=1,2", "b= ", "c=", "d=x y"]);
    }

    #[test]
    fn the_service_alone_asks_for_a_kernel_interface() {
        let url = parsed("icmp-responder");
        assert_eq!(
            (url.network_service.as_str(), url.mechanism.r#type.as_str()),
            ("icmp-responder", "KERNEL")
        );
        assert!(
            url.mechanism.parameters.is_empty(),
            "the interface's name is made up later"
        );
        assert_eq!(
            parsed("icmp-responder@d/nsm-1?a=http://b").to_string(),
            "kernel://icmp-responder@d/nsm-1"
        );
    }

    #[test]
    fn errors_name_url_and_remedy() {
        assert_eq!(
            error("tap://s/nsm-1"),
            "service URL \"tap://s/nsm-1\" asks for mechanism \"tap\", use kernel, memif, vfio or noop"
        );
        assert_eq!(
            error("kernel://s/a-name-too-long-for-linux"),
            "service URL \"kernel://s/a-name-too-long-for-linux\" has a bad interface: interface name \
             \"a-name-too-long-for-linux\" has 25 bytes, shorten it to at most 15"
        );
        for text in [
            "",
            "kernel://",
            "kernel:///nsm-1",
            "kernel://@d",
            "?a=b",
            "/nsm-1",
        ] {
            assert!(error(text).contains("names no service"), "{text}");
        }
        for text in ["kernel://s:80/nsm-1", "kernel:s"] {
            assert!(error(text).contains("has a ':'"), "{text}");
        }
        for text in ["kernel://a b", "kernel://a%2Fb", "kernel://a\n"] {
            assert!(error(text).contains("white space"), "{text}");
        }
        assert!(error("kernel://s?a=1;b=2").contains("use '&'"));
        assert_eq!(parsed("kernel://s?a=1%3Bb=2").labels["a"], "1;b=2");
        assert!(error("://s").contains("has a scheme"));
        assert!(error("1kernel://s").contains("has a scheme"));
        for text in [
            "kernel://s?a=%",
            "kernel://s?a=%2",
            "kernel://s?%zz",
            "kernel://s/%",
            "kernel://s?a=%ff",
        ] {
            assert!(error(text).contains("%25"), "{text}");
        }
    }

    #[test]
    fn without_a_check_any_mechanism_and_interface_is_read() {
        let url = ServiceUrl::parse("X://s/a-name-too-long-for-linux").expect("only read");
        assert_eq!(url.mechanism.r#type, "X");
        url.check().expect_err("nobody has mechanism X");
        assert!(
            ServiceUrl::parse("memif://s/a-name-too-long-for-linux")
                .expect("read")
                .check()
                .is_ok()
        );
        assert!(parsed("kernel://s/").mechanism.parameter("name").is_empty());
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let urls = ServiceUrl::parse_list("kernel://a/nsm-1, memif://b ,,").expect("a good list");
        let texts: Vec<_> = urls.iter().map(ServiceUrl::to_string).collect();
        assert_eq!(texts, ["kernel://a/nsm-1", "memif://b"]);
        assert_eq!(ServiceUrl::parse_list(""), Ok(vec![]));
        let error = ServiceUrl::parse_list("kernel://a,x://b").expect_err("one is bad");
        assert!(error.to_string().contains("x://b"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _either_is_fine = text.parse::<ServiceUrl>();
            let _either_is_fine = ServiceUrl::parse_list(&text);
        }

        #[test]
        fn text_that_looks_like_a_url_never_panics(text in "[a-z]{0,3}[:/@?#&=%+,.0-9a-f ]{0,24}") {
            let _either_is_fine = text.parse::<ServiceUrl>();
        }

        #[test]
        fn plain_parts_are_read_as_written(
            service in "[a-z]{1,9}",
            domain in "[a-z.]{1,9}",
            name in "[a-z0-9]{1,3}",
            value in "[a-z0-9.-]{0,9}",
        ) {
            let url = parsed(&format!("memif://{service}@{domain}/{name}?{name}={value}"));
            prop_assert_eq!(url.network_service, format!("{service}@{domain}"));
            prop_assert_eq!(url.mechanism.parameter("name"), &name);
            prop_assert_eq!(&url.labels[&name], &value);
        }
    }
}
