package stage

// Limit bounds the sessions that are open at the same time, to at least 1 and at most
// Config.MaxSeqs. Those beyond a lower limit go on; no others are taken until they have
// ended.
func (s *Stage) Limit(sessions int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withheld = s.cfg.MaxSeqs - max(1, min(sessions, s.cfg.MaxSeqs))
}
