package protocol

import (
	"fmt"

	"shoal.dev/shoal/internal/store"
)

// CredentialsFile is what a service's images are pulled with, X-Registry-Auth headers by repository.
func CredentialsFile(serviceID string, auth map[string]string) (File, error) {
	b, err := store.Marshal(auth)
	if err != nil {
		return File{}, fmt.Errorf("encoding the credentials of service %s: %w", serviceID, err)
	}
	return File{ID: serviceID, Data: b}, nil
}

// Credentials reads what [CredentialsFile] made. The error shows nothing of it.
func (f File) Credentials() (map[string]string, error) {
	var auth map[string]string
	if err := store.Unmarshal(f.Data, &auth); err != nil {
		return nil, fmt.Errorf("the credentials of service %s cannot be read", f.ID)
	}
	return auth, nil
}
