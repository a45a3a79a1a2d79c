package pki

// RootPublicKey is the public key of a root certificate, DER of its SubjectPublicKeyInfo: what the API shows as
// CertIssuerPublicKey. It is nil for what is no root certificate.
func RootPublicKey(rootPEM []byte) []byte {
	root, err := parseRoot(rootPEM)
	if err != nil {
		return nil
	}
	return append([]byte(nil), root.RawSubjectPublicKeyInfo...)
}
