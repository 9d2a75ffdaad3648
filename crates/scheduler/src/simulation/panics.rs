//! Panics of a world's tasks, which nobody awaits: each world lives on one thread, and its first panic is what
//! went wrong in it.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

/// What happened on a thread that plays a world.
enum Watch {
    /// It plays none.
    Off,
    /// The first panic since it began.
    On(Option<String>),
}

thread_local! {
    static WATCH: RefCell<Watch> = const { RefCell::new(Watch::Off) };
}

/// This thread begins a world: its panics are noted and not printed.
pub(super) fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let noted = WATCH.with_borrow_mut(|watch| watch.note(info));
            if !noted {
                before(info);
            }
        }));
    });
    WATCH.set(Watch::On(None));
}

/// The first panic of this thread's world, which is over.
pub(super) fn first() -> Option<String> {
    match WATCH.replace(Watch::Off) {
        Watch::On(first) => first,
        Watch::Off => None,
    }
}

impl Watch {
    fn note(&mut self, info: &panic::PanicHookInfo<'_>) -> bool {
        let Self::On(first) = self else { return false };
        let text = info.payload_as_str().unwrap_or("a panic");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        first.get_or_insert_with(|| format!("{text} ({place})"));
        true
    }
}
