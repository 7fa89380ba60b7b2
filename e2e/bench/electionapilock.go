package bench

import (
	"fmt"
	"io"
	"os"

	consulapi "github.com/hashicorp/consul/api"
)

// holdAPILock takes a lock as the documentation of Consul's Go library shows it.
func holdAPILock(key string) error {
	client, err := consulapi.NewClient(consulapi.DefaultConfig())
	if err != nil {
		return fmt.Errorf("make consul client: %w", err)
	}
	lock, err := client.LockKey(key)
	if err != nil {
		return fmt.Errorf("make lock: %w", err)
	}
	if _, err := lock.Lock(nil); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := sayLeading(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return lock.Unlock()
}
