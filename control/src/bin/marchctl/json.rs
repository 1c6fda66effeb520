//! Messages as JSON, field names as in the .proto files; every field is there, also when it is zero.

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::failure::Failure;

/// Any message of `marchproxy.v1`, by its name.
pub fn value(name: &str, message: &impl prost::Message) -> Result<serde_json::Value, Failure> {
    let failed = |why: String| Failure::refused(format!("cannot write {name} as JSON: {why}; please report this"));
    let pool = DescriptorPool::decode(marchproxy_proto::DESCRIPTORS).map_err(|why| failed(why.to_string()))?;
    let descriptor = pool
        .get_message_by_name(&format!("marchproxy.v1.{name}"))
        .ok_or_else(|| failed("no such message".to_owned()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|why| failed(why.to_string()))?;
    let options =
        SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false).stringify_64_bit_integers(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|why| failed(why.to_string()))
}

/// The same as text on several lines.
pub fn pretty(name: &str, message: &impl prost::Message) -> Result<String, Failure> {
    Ok(format!("{:#}", value(name, message)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_proto::v1;

    #[test]
    fn names_as_in_the_contract_and_zeros_too() {
        let stats = v1::StatsResponse { node: "edge-1".into(), generation: u64::MAX, ..v1::StatsResponse::default() };
        let json = value("StatsResponse", &stats).unwrap();
        assert_eq!(json["generation"], u64::MAX);
        assert_eq!(json["content_hash"], "");
        assert_eq!(json["ports"], serde_json::json!([]));
    }
}
