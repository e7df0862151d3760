// Package metrics counts what a node does, for Prometheus, in a registry of its own,
// so that several nodes in one process stay separate.
//
// Events are counted as they happen, by the methods of [Metrics]; those per step or
// token allocate nothing. State is read from the node at each scrape ([State]).
//
// Where the OpenTelemetry conventions for generative AI have a name, it is used, in
// Prometheus's spelling: to callers of its API, a node is a model server. All other
// names begin with shoal_.
//
// The values of each label are bounded whatever peers do: 32 peers (the others are
// "other"), 32 models (likewise), and fixed sets of codes and kinds. No label
// identifies a session, and none contains text of prompts or answers.
//
// Besides the Go runtime's and the process's metrics (go_*, process_*), a node has:
//
//	gen_ai_client_token_usage
//		histogram by gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model, gen_ai_token_type. Tokens of a prompt (input) or an answer (output).
//	gen_ai_server_request_duration_seconds
//		histogram by error_type, gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model. Time from the request to the end or failure of an answer by this node.
//	gen_ai_server_time_per_output_token_seconds
//		histogram by gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model. Mean time per token after the first, per answer.
//	gen_ai_server_time_to_first_token_seconds
//		histogram by gen_ai_operation_name, gen_ai_provider_name, gen_ai_request_model. Time until the first token of an answer by this node.
//	shoal_ahead_rows_total
//		counter by outcome. Rows of guessed tokens that this node's stages sent ahead, in sessions that have ended: kept (the guess was right) or wrong.
//	shoal_answer_token_gap_seconds
//		histogram. Time between two tokens of an answer, stalls included.
//	shoal_answers
//		gauge. Answers being generated for callers of this node.
//	shoal_build_info
//		gauge by version. Always 1; the version is in its label.
//	shoal_dht_peers
//		gauge. Peers in the DHT's routing table.
//	shoal_draft_tokens_total
//		counter by outcome. Tokens that this node's draft models guessed, in sessions that have ended: right or wrong.
//	shoal_engine_memory_bytes
//		gauge by blocks, model. Memory of an engine: weights, KV and graph.
//	shoal_engine_restarts_total
//		counter. Engines that were lost and restarted.
//	shoal_fetched_bytes_total
//		counter by source. Bytes of models fetched, by kind of source, including duplicates.
//	shoal_given_bytes_total
//		counter. Bytes of models sent to peers.
//	shoal_key_requests_total
//		counter by key. Requests to the API with a key, by its name.
//	shoal_key_tokens_total
//		counter by gen_ai_token_type, key. Tokens of prompts (input) and answers (output), by the name of the key.
//	shoal_lending
//		gauge. 1 while the machine is lent, 0 while the operator's rules pause it.
//	shoal_lookup_dials_total
//		counter by outcome. Peers that lookups in the DHT dialled, by outcome: answered, or dead (it could not be reached).
//	shoal_lookup_first_provider_seconds
//		histogram. Time until the first provider, of searches in the DHT for the peers of a model that found one.
//	shoal_lookup_hops
//		histogram. Answers that led to each other in a lookup in the DHT, at most.
//	shoal_lookups_failed_total
//		counter. Searches in the DHT for the peers of a model that found none.
//	shoal_offers
//		gauge. Known offers of other nodes.
//	shoal_peer_packets_lost_total
//		counter by peer. QUIC packets lost on the way to a peer.
//	shoal_peer_packets_sent_total
//		counter by peer. QUIC packets sent to a peer.
//	shoal_peer_rtt_seconds
//		gauge by peer. Smoothed QUIC round trip to a peer; peer=other is the mean of all peers without their own label.
//	shoal_peers
//		gauge. Peers connected.
//	shoal_prediction_ratio
//		histogram by what. Measured value of an answer divided by the value that its plan predicted.
//	shoal_protocol_bytes_total
//		counter by direction, protocol. Bytes sent and received on streams, by protocol and direction.
//	shoal_repair_replayed_tokens_total
//		counter. Token positions that stages recomputed for repairs.
//	shoal_repair_stall_seconds
//		histogram. Time from the last progress of an answer until it could continue after a repair.
//	shoal_repairs_failed_total
//		counter. Repairs that failed: the answer broke off.
//	shoal_repairs_total
//		counter by reason. Routes repaired during an answer, by the error code of the failure.
//	shoal_span_ready
//		gauge by blocks, model. 1 if a token has gone through a whole chain that the span is part of, 0 until then.
//	shoal_stage_batch_rows
//		histogram. Rows per pass through the engine.
//	shoal_stage_kv_reserved_tokens
//		gauge by blocks, model. KV tokens that open sessions have reserved.
//	shoal_stage_kv_tokens
//		gauge by blocks, model. KV capacity of a span, in tokens.
//	shoal_stage_queued_rows
//		gauge by blocks, model. Rows queued for a pass through a span.
//	shoal_stage_sessions
//		gauge by blocks, model. Sessions open at a span.
//	shoal_stage_sessions_closed_total
//		counter by outcome. Sessions of other nodes that have ended, by outcome: bye (the client ended it), silent (the client went away), or the error code.
//	shoal_stage_sessions_opened_total
//		counter. Sessions of other nodes that were accepted.
//	shoal_stage_sessions_refused_total
//		counter by reason. Sessions of other nodes that were refused, by error code.
//	shoal_stage_step_duration_seconds
//		histogram by part, phase. Time of a session's step in a part of its path through a stage: wait for a pass, compute, send.
//	shoal_store_bytes
//		gauge. Bytes of models on disk.
//	shoal_store_free_bytes
//		gauge. Bytes free on the store's disk.
//	shoal_store_quota_bytes
//		gauge. Bytes that unpinned shards may take; 0 if there is no limit.
package metrics
