use super::*;

/// The scaffold itself works: both roles get all the way, twice.
#[test]
fn rigs_stand() {
    for serves in [false, true] {
        let mut rig = rig::Rig::established(serves);
        rig.exchange();
        assert!(rig.error.is_none() && !rig.puppet.astray, "{:?}", rig.error);
        rig.finish();
        let mut rig = rig::Rig::authenticated(serves);
        rig.exchange();
        rig.hand_over();
        assert!(rig.error.is_none() && !rig.puppet.astray, "{:?}", rig.error);
        rig.finish();
    }
}

/// A script reaches what it is about: a command is asked for and answered, data flows both ways.
#[test]
fn scripts_are_understood() {
    let mut rig = rig::Rig::authenticated(true);
    let program = [10, 0, 3, 0, 2, 3, 10, 13, 0, 0, 3, 0, 1, b'x', 10, 6, 0, 0, 9, 13, 12, 0, 0, 7];
    let mut input = Input::new(&program);
    while !input.is_empty() {
        script::step(&mut rig, &mut input);
    }
    assert_eq!(rig.error, None);
    assert_eq!(rig.channels.len(), 1);
    assert_eq!(rig.puppet.data, [0xad; 7], "the owner's own data");
    // The opening, the command's answer, the data.
    assert_eq!(rig.puppet.heard, 3);
    rig.finish();
}
