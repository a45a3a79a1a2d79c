package cluster

import "time"

const (
	// defaultCertLife is Swarm's: 90 days.
	defaultCertLife = 90 * 24 * time.Hour
	// certLeeway is added to the life of certificates where their end counts. Clocks may be apart by much less.
	certLeeway = 24 * time.Hour
)

// CertsOver is when no certificate that was given out before from can be valid any more, as the swarm's settings are and were.
func (s *Swarm) CertsOver(from time.Time) time.Time {
	return from.Add(max(s.LongestCert, s.Spec.CAConfig.NodeCertExpiry, defaultCertLife) + certLeeway)
}

// NoteCertLife is to be called before the settings of s become spec.
func (s *Swarm) NoteCertLife(expiry time.Duration) {
	if old := s.Spec.CAConfig.NodeCertExpiry; expiry != old {
		s.LongestCert = max(s.LongestCert, old, expiry)
	}
}
