//! Who may call, and when: the pace ([`limiter`]) and whether calls make sense at all ([`suspension`], around the
//! [`gate`](convgroup_domain::gate)).
pub mod limiter;
pub mod suspension;
