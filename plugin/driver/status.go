package driver

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// LogStatus writes one line about this process to the Nomad agent's log each
// time the process gets SIGUSR1, until the driver's context ends. Nomad and
// Consul report their metrics on the same signal.
func (d *Driver) LogStatus() {
	usr := make(chan os.Signal, 1)
	signal.Notify(usr, syscall.SIGUSR1)
	go func() {
		defer signal.Stop(usr)
		for {
			select {
			case <-usr:
				d.mu.Lock()
				tasks := len(d.tasks)
				d.mu.Unlock()
				var mem runtime.MemStats
				runtime.ReadMemStats(&mem)
				d.logger.Info("plugin status", "tasks", tasks, "goroutines", runtime.NumGoroutine(),
					"heap_bytes", mem.HeapAlloc, "version", Version)
			case <-d.ctx.Done():
				return
			}
		}
	}()
}
