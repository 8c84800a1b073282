//! Parameters of a query, read one at a time.
//!
//! Every request is asked for five names, and a sync carries a whole filter that none of them is: a
//! value is decoded only when its name is asked for.

use http::Uri;

/// The first value of a parameter.
pub(crate) fn value(uri: &Uri, name: &str) -> Option<String> {
    values(uri, name).next()
}

/// Every value of a parameter that may be said more than once, in order.
pub(crate) fn values<'a>(uri: &'a Uri, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let pairs = uri.query().unwrap_or_default().split('&').filter(move |pair| is_named(pair, name));
    pairs.filter_map(|pair| form_urlencoded::parse(pair.as_bytes()).next()).map(|(_, v)| v.into())
}

fn is_named(pair: &str, name: &str) -> bool {
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    let decoded =
        || form_urlencoded::parse(key.as_bytes()).next().is_some_and(|(key, _)| key == name);
    key == name || (key.contains(['%', '+']) && decoded())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_as_a_whole_parser_finds_them() {
        for query in [
            "",
            "a",
            "a=",
            "=a",
            "&&a=1&&",
            "a=1&a=2&b=a",
            "b=1&%61=2&a%3d=3",
            "aa=1&a=%7B%22x%22%3A1%7D+y",
            "a=1=2&a;b=3",
            "%zz=1&a=%zz&a=%ff&+=4",
        ] {
            let uri = Uri::try_from(format!("/path?{query}")).unwrap();
            for name in ["a", "b", "aa", "", " ", "a="] {
                let whole: Vec<String> = form_urlencoded::parse(query.as_bytes())
                    .filter(|(key, _)| key == name)
                    .map(|(_, value)| value.into_owned())
                    .collect();
                // An empty pair is no parameter.
                assert_eq!(values(&uri, name).collect::<Vec<_>>(), whole, "{query}: {name:?}");
                assert_eq!(value(&uri, name), whole.first().cloned());
            }
        }
        assert_eq!(value(&Uri::from_static("/path"), "a"), None);
    }
}
