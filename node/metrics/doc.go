// Package metrics counts what a node does, for Prometheus, in a registry that is
// the node's own: several nodes of one process do not meet in it.
//
// There are two kinds. What happens is counted as it happens, by the methods of
// [Metrics]; those of a step or a token allocate nothing. What is, the node is
// asked for with each scrape ([State]).
//
// Where the OpenTelemetry conventions for generative AI have a name, it is used,
// in Prometheus's spelling: a node is a model's server to those who call its
// API. All else begins with shoal_.
//
// A label's values are bounded whatever peers do: 32 peers (the rest is
// "other"), 32 models (again), codes and kinds of fixed sets. No label is a
// session, and nothing holds a text.
//
// Besides Go's own and the process's (go_*, process_*), a node has:
//
//	gen_ai_client_token_usage
//		histogram by gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model, gen_ai_token_type. Tokens of a prompt (input) or an answer (output).
//	gen_ai_server_request_duration_seconds
//		histogram by error_type, gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model. Time of an answer by this node, to its end or failure.
//	gen_ai_server_time_per_output_token_seconds
//		histogram by gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model. Mean time of the tokens after the first, an answer.
//	gen_ai_server_time_to_first_token_seconds
//		histogram by gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model. Time until the first token of an answer by this node.
//	shoal_answer_token_gap_seconds
//		histogram. Time between two tokens of an answer, stalls included.
//	shoal_answers
//		gauge. Answers in the making for callers of this node.
//	shoal_build_info
//		gauge by version. Always 1; its label tells the version.
//	shoal_dht_peers
//		gauge. Peers in the DHT's routing table.
//	shoal_engine_memory_bytes
//		gauge by blocks, model. Memory of an engine: weights, KV and graph.
//	shoal_engine_restarts_total
//		counter. Engines that were lost and are started again.
//	shoal_fetched_bytes_total
//		counter by source. Bytes of models fetched, by kind of source; those that came twice included.
//	shoal_given_bytes_total
//		counter. Bytes of models given to peers.
//	shoal_lending
//		gauge. 1 while the machine is lent, 0 while the operator's rules pause it.
//	shoal_offers
//		gauge. Offers of others that are known.
//	shoal_peer_packets_lost_total
//		counter by peer. QUIC packets to a peer that were lost.
//	shoal_peer_packets_sent_total
//		counter by peer. QUIC packets sent to a peer.
//	shoal_peer_rtt_seconds
//		gauge by peer. Round trip to a peer, smoothed, as QUIC measures it; the mean of all that have no label of their own as other.
//	shoal_peers
//		gauge. Peers connected.
//	shoal_prediction_ratio
//		histogram by what. What an answer showed, divided by what its plan had predicted.
//	shoal_protocol_bytes_total
//		counter by direction, protocol. Bytes of streams, by protocol and direction.
//	shoal_repair_replayed_tokens_total
//		counter. Positions that stages computed again for repairs.
//	shoal_repair_stall_seconds
//		histogram. Time from the last sign of progress until tokens could flow again after a repair.
//	shoal_repairs_failed_total
//		counter. Repairs for which no way was found: an answer broke off.
//	shoal_repairs_total
//		counter by reason. Routes repaired in the middle of an answer, by the code of what was wrong.
//	shoal_span_ready
//		gauge by blocks, model. 1 if a token has gone through a whole chain that the span is part of, 0 until then.
//	shoal_stage_batch_rows
//		histogram. Rows of a pass through the engine.
//	shoal_stage_kv_reserved_tokens
//		gauge by blocks, model. KV tokens that open sessions have reserved.
//	shoal_stage_kv_tokens
//		gauge by blocks, model. KV capacity of a span, in tokens.
//	shoal_stage_queued_rows
//		gauge by blocks, model. Rows that wait for a pass through a span.
//	shoal_stage_sessions
//		gauge by blocks, model. Sessions open at a span.
//	shoal_stage_sessions_closed_total
//		counter by outcome. Sessions of others that have ended: bye by their client's word, silent without it, or by the code of a failure.
//	shoal_stage_sessions_opened_total
//		counter. Sessions of others that were taken.
//	shoal_stage_sessions_refused_total
//		counter by reason. Sessions of others that were refused, by the code that said why.
//	shoal_stage_step_duration_seconds
//		histogram by part, phase. Time of a session's step in a part of its way through a stage: waiting for a pass, computed in it, sent on.
//	shoal_store_bytes
//		gauge. Bytes of models on disk.
//	shoal_store_free_bytes
//		gauge. Bytes free on the store's disk.
//	shoal_store_quota_bytes
//		gauge. Bytes that shards without a pin may take; 0 if there is no limit.
package metrics
