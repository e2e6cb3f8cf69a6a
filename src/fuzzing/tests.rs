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
