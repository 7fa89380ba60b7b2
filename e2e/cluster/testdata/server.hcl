name       = "server"
data_dir   = "/tmp/np-abc/server/data"
bind_addr  = "127.0.0.1"
log_level  = "INFO"
plugin_dir = "/tmp/np-abc/server/plugins"

disable_update_check = true
leave_on_interrupt   = false
leave_on_terminate   = false

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

ports {
  http = 12006
  rpc  = 12007
  serf = 12008
}

# Everybody is 127.0.0.1 here, so limits per address are limits of all.
limits {
  http_max_conns_per_client = 2000
  rpc_max_conns_per_client  = 2000
}

consul {
  address = "127.0.0.1:12000"
}

server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1

  min_heartbeat_ttl = "5s"
  heartbeat_grace   = "5s"
}
