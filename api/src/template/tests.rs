// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |&(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    labels.iter().map(owned).collect()
}

fn with_labels(template: &str) -> Result<String, TemplateError> {
    let labels = labels(&[("a", "x"), ("node-name", "n1"), ("empty", ""), ("grün", "g")]);
    render(template, Data::Labels(&labels)).map(Cow::into_owned)
}

#[test]
fn what_is_understood_renders_as_in_go() {
    let cases = [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ("{{.a}}", "x"),
        ("{{ .a }}-{{$.a}}", "x-x"),
        ("1 {{- .a -}} 2", "1x2"),
        ("1 {{- \t.a\n -}} \r\n 2", "1x2"),
        ("{{.missing}}", "<no value>"),
        ("{{.missing.further}}", "<no value>"),
        ("{{.empty}}|", "|"),
        ("{{.grün}}", "g"),
        ("{{index . \"node-name\"}}", "n1"),
        ("{{index $ `node-name`}}", "n1"),
        ("{{ index . \"missing\" }}|", "|"),
        ("{{index . .a}}|", "|"),
        ("{{index .}}", "map[a:x empty: grün:g node-name:n1]"),
        ("{{.}}", "map[a:x empty: grün:g node-name:n1]"),
        ("{{\"}} \\\" \\\\\"}}", "}} \" \\"),
        ("{{`{{.a}}`}}", "{{.a}}"),
        ("{{12}}", "12"),
        ("a{{/* }} */}}b", "ab"),
        ("a {{- /* c */ -}} b", "ab"),
    ];
    for (template, expected) in cases {
        assert_eq!(with_labels(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_fails_in_go_or_is_not_understood_is_an_error() {
    let cases = [
        "{{",
        "{{.a",
        "{{.a}",
        "{{}}",
        "{{ }}",
        "{{- -}}",
        "{{.a-b}}",
        "{{.a.b}}",
        "{{.a .a}}",
        "{{.a\"b\"}}",
        "{{.a.}}",
        "{{..}}",
        "{{$.}}",
        "{{$a}}",
        "{{.1}}",
        "{{.a.1}}",
        "{{index}}",
        "{{index . 1}}",
        "{{index . .missing}}",
        "{{index .missing}}",
        "{{index .a \"b\"}}",
        "{{index index}}",
        "{{\"a}}",
        "{{\"\\n\"}}",
        "{{\"\n\"}}",
        "{{`a}}",
        "{{012}}",
        "{{1.5}}",
        "{{-1}}",
        "{{.a | printf \"%s\"}}",
        "{{printf \"x\"}}",
        "{{if .a}}1{{end}}",
        "{{a}}",
        "{{/* a }}",
        "{{ /* a */}}",
        "{{/* a */ }}",
        "{{99999999999999999999}}",
        "{{(.a)}}",
    ];
    for template in cases {
        let error = with_labels(template).expect_err(template);
        assert!(error.to_string().starts_with("template \""), "{error}");
    }
}

#[test]
fn lists_and_fields_are_strict() {
    let list = ["10.0.0.1".to_string(), "fd00::1".to_string()];
    let fields = [("Name", Data::Text("nsm-1")), ("IPs", Data::List(&list))];
    let rendered = |template| render(template, Data::Fields(&fields)).map(Cow::into_owned);
    let good = rendered("{{.Name}} {{index .IPs 1}} {{.IPs}}");
    assert_eq!(good.as_deref(), Ok("nsm-1 fd00::1 [10.0.0.1 fd00::1]"));
    for template in [
        "{{.Other}}",
        "{{index .IPs 2}}",
        "{{index .IPs \"0\"}}",
        "{{.IPs.Name}}",
        "{{.}}",
    ] {
        rendered(template).expect_err(template);
    }
}

#[test]
fn a_result_is_bounded() {
    let long = "x".repeat(MAX_RENDERED / 2);
    let labels = labels(&[("a", &long)]);
    let data = Data::Labels(&labels);
    assert_eq!(
        render("{{.a}}{{.a}}", data).map(|text| text.len()),
        Ok(MAX_RENDERED)
    );
    let error = render("{{.a}}{{.a}}!", data).expect_err("one byte more");
    assert_eq!(error.problem, Problem::TooLong);
}

#[test]
fn an_error_names_template_and_remedy() {
    let error = with_labels("{{.a-b}}").expect_err("not understood");
    assert_eq!(
        error.to_string(),
        "template \"{{.a-b}}\" has an action that is not understood, use text, {{.field}} and {{index . \"key\"}}"
    );
}

/// Texts that are likely to be templates, or nearly.
fn pieces() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "{{", "}}", "{{-", "-}}", " ", "-", ".", "$", "a", "missing", "index", "\"", "`", "\\", "1", "0",
        "/*", "*/", "\n", "é", "x",
    ];
    proptest::collection::vec(proptest::sample::select(PIECES), 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(template in any::<String>()) {
        let _either_is_fine = with_labels(&template);
    }

    #[test]
    fn arbitrary_pieces_of_templates_never_panic(template in pieces()) {
        let _either_is_fine = with_labels(&template);
    }

    #[test]
    fn text_without_actions_is_itself(template in "[^{]*") {
        prop_assert_eq!(with_labels(&template), Ok(template));
    }

    #[test]
    fn a_field_between_texts_is_its_value(before in "[^{]*", value in any::<String>(), after in "[^{}]*") {
        let labels = labels(&[("a", &value)]);
        let template = format!("{before}{{{{.a}}}}{after}");
        let rendered = render(&template, Data::Labels(&labels)).expect("a good template");
        prop_assert_eq!(rendered, format!("{before}{value}{after}"));
    }
}

#[test]
fn functions_without_arguments_are_those_that_are_given() {
    let labels = labels(&[("a", "x")]);
    let render = |template| {
        let mut times = 0;
        let call = move |name: &str| {
            times += 1;
            (name == "uuid").then(|| format!("u{times}"))
        };
        render_calling(template, Data::Labels(&labels), call).map(Cow::into_owned)
    };
    assert_eq!(render("{{ uuid }}-{{uuid}}-{{.a}}").as_deref(), Ok("u1-u2-x"));
    for bad in [
        "{{ other }}",
        "{{ uuid .a }}",
        "{{ index uuid }}",
        "{{ uuid uuid }}",
    ] {
        assert!(render(bad).is_err(), "{bad}");
    }
}
