package dockerguard_test

import (
	"fmt"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/dockerguard"
)

// Example shows both halves: the operator's configuration when Nomad sets it,
// and a job's before each start.
func Example() {
	var config []byte // of base.Config, as SetConfig gets it
	if err := base.MsgPackEncode(&config, map[string]any{"allow_privileged": false}); err != nil {
		panic(err)
	}
	policy, err := dockerguard.Parse(config, []string{"ipc"})
	if err != nil {
		panic(err)
	}

	task := &drivers.TaskConfig{Name: "web"}
	if err := task.EncodeConcreteDriverConfig(map[string]any{"image": "shop/web:7", "pid_mode": "host"}); err != nil {
		panic(err)
	}
	fmt.Println(policy.Check(task))
	// Output:
	// pid_mode: "host" is not allowed on this client; its operator may add "pid" to allow_host_namespaces in the plugin's lifecycle block, or set allow_privileged
}
