package link

import (
	"crypto/x509"
	"fmt"
	"time"

	"shoal.dev/shoal/internal/pki"
)

// formerRoot is why a node is refused that was away while the swarm got another root. It is said to the node.
func formerRoot(cert *x509.Certificate) error {
	return fmt.Errorf("the certificate of node %s is of the root that the swarm had before its authority was rotated (ca --rotate), and the rotation ended without the node", cert.Subject.CommonName)
}

// validUntil is when a connection ends whose peer showed the certificate. One that was taken although it is over by our
// clock lasts as long as the clocks may be apart.
func validUntil(cert *x509.Certificate) time.Time {
	if time.Now().After(cert.NotAfter) {
		return cert.NotAfter.Add(pki.Leeway)
	}
	return cert.NotAfter
}
