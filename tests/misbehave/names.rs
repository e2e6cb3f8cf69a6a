//! What stands behind the user in a login name.

use super::*;

/// A style is signed, and no part of anybody's name.
#[test]
fn case_54_a_style_is_nobodys_name_and_does_not_change() {
    for (name, user) in [("x:y", "x"), ("x::z", "x"), ("x%h:22", "x%h")] {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        stage.say_raw(&probe(user_key(), name));
        stage.wait(Duration::from_millis(20));
        let asked = stage.victim.saw(
            |event| matches!(event, Event::Query(Query::FindKey { user: own, .. }) if **own == *user),
        );
        assert_eq!(asked, 1, "{name:?}");
        stage.say_raw(&probe(user_key(), user));
        assert_eq!(stage.code(), PROTOCOL_ERROR, "{name:?}: the style has changed");
    }
}
