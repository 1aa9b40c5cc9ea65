//! The answers that refuse a call: code and text.

/// A code of the API with a text like the service's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) info: &'static str,
}

macro_rules! refusals {
    ($($name:ident = $code:literal, $info:literal;)+) => {
        impl Refusal {
            $(pub(super) const $name: Self = Self { code: $code, info: $info };)+
        }
    };
}

refusals! {
    APP_ID_MISSING = 60012, "sdkappid is missing or no number";
    APP_ID_UNKNOWN = 70020, "sdkappid is not found";
    USERSIG_MISSING = 70002, "usersig is empty";
    USERSIG_UNREADABLE = 70003, "usersig is illegal, maybe it was cut short";
    USERSIG_OF_OTHER_APP = 70014, "sdkappid does not match the usersig";
    USERSIG_OF_OTHER_ACCOUNT = 70013, "identifier does not match the usersig";
    SIGNATURE_WRONG = 70009, "usersig verification failed, check the secret key";
    USERSIG_EXPIRED = 70001, "usersig is expired";
    NOT_ADMIN = 50003, "the caller is not an admin of the app";
    QUERY_INVALID = 60009, "random must be a 32-bit unsigned integer, contenttype must be json";
    TOO_FAST = 60007, "the frequency of calling this interface is limited";
    BODY_NOT_JSON = 60003, "parsing the request body as a JSON object failed";
    ACCOUNT_INVALID = 60015, "From_Account must be a string";
    NAMES_INVALID = 50002, "GroupName must be a list of exactly one string";
    START_INVALID = 50002, "StartIndex must be a whole number from 0 on";
    NAMES_EMPTY = 51006, "GroupName is an empty list";
    NAME_TOO_LONG = 51011, "GroupName is longer than 32 bytes";
    USER_UNKNOWN = 50001, "From_Account does not exist";
    GROUP_UNKNOWN = 51009, "the conversation group does not exist";
}
