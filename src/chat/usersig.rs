//! Signing, decoding and verifying `UserSig` (`TLSSigAPIv2`).
