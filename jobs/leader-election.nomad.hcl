# Instances of which one leads: it does the work, the others wait to take over.
#
#   nomad job run leader-election.nomad.hcl
#   nomad job run -var driver=docker -var image=... -var elector_image=... leader-election.nomad.hcl
#   nomad job run -var driver=docker -var network=bridge ... leader-election.nomad.hcl
#
# Each instance has two tasks, in any language and image, and no SDK in either:
#
#   elector   a sidecar that takes part in the election through the Consul agent of
#             the machine, and serves an HTTP API on loopback
#   app       your program. It opens a stream, and leads for as long as that is open:
#
#     curl -N http://127.0.0.1:$NOMAD_PORT_elector/v1/elections/NAME/hold
#
# As it stands the app is a shell script, at the end of this file, that counts in
# Consul while it leads. To see who leads:
#
#   curl http://127.0.0.1:8500/v1/kv/election-data/leader-election/count?raw
#
# What happens when something ends:
#
#   the app ends or crashes   its stream breaks, and another instance leads within
#                             milliseconds
#   update, drain, job stop   Nomad stops the app first and the sidecar last: the same
#   elector killed            its stream breaks, so the app stops. Another instance
#                             leads when the ttl and the trust window are over, 3 s
#   machine lost              5 to 10 s with stock Consul
#
# What the leader writes with the kv route is refused by Consul when it does not lead
# any more, however late it comes. For anything else send the token of the "leader"
# event along, and let the other side refuse tokens that are lower than one it has seen.
#
# A program that should simply not run unless it leads needs no API at all: one task,
#
#   elector run -election NAME -- /bin/program
#
# With Consul ACLs give the task "elector" a block `consul {}`, so that it gets a token
# by its workload identity. The policy that it needs:
#
#   key_prefix "election/"        { policy = "write" }
#   key_prefix "election-data/"   { policy = "write" } # only for the kv route
#   service_prefix "elector"      { policy = "write" }
#   session_prefix ""             { policy = "write" }
#   agent_prefix "", node_prefix "" { policy = "read" }
#
# Give the app no token: whoever may write the keys may take the lock away.

variable "job_name" {
  description = "Name of the job. Also part of its allocations' names."
  type        = string
  default     = "leader-election"

  validation {
    condition     = var.job_name != "" && regex_replace(var.job_name, "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "") == ""
    error_message = "The job_name must be 1 to 64 letters, digits, dots, dashes or underscores, and begin with a letter or digit."
  }
}

variable "namespace" {
  description = "Nomad namespace of the job."
  type        = string
  default     = "default"
}

variable "datacenters" {
  description = "Datacenters in which instances may be placed. [\"*\"] is all of them."
  type        = list(string)
  default     = ["*"]

  validation {
    condition     = length(var.datacenters) > 0
    error_message = "The datacenters must name at least one, or be [\"*\"]."
  }
}

variable "node_pool" {
  description = "Node pool in which instances are placed."
  type        = string
  default     = "default"
}

variable "count" {
  description = "Number of instances. With one there is nobody to take over."
  type        = number
  default     = 3

  validation {
    condition     = var.count >= 1 && var.count <= 100 && floor(var.count) == var.count
    error_message = "The count must be a whole number from 1 to 100."
  }
}

variable "driver" {
  description = "How instances run: \"raw_exec\" (programs of the machine) or \"docker\" (images)."
  type        = string
  default     = "raw_exec"

  validation {
    condition     = contains(["raw_exec", "docker"], var.driver)
    error_message = "The driver must be \"raw_exec\" or \"docker\"."
  }
}

variable "release" {
  description = "Any text that names what is deployed. Changing it replaces the instances one after the other."
  type        = string
  default     = "1"

  validation {
    condition     = var.release != "" && regex_replace(var.release, "^[A-Za-z0-9._+-]+$", "") == ""
    error_message = "The release must consist of letters, digits, dots, dashes, underscores and plus signs."
  }
}

# --- the election -----------------------------------------------------------------

variable "election" {
  description = "Name of the election. All instances that take part in it, of this job or others, have one leader."
  type        = string
  default     = "leader-election"

  validation {
    condition     = var.election != "" && regex_replace(var.election, "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", "") == ""
    error_message = "The election must be 1 to 128 letters, digits, dots, dashes or underscores, and begin with a letter or digit."
  }
}

variable "mode" {
  description = "What stands between two leaders that both believe to lead: \"balanced\" (nobody leads before the trust of the one before is over; 3 s after a crash), \"strict\" (a session of its own; 30 s) or \"fenced\" (the token alone; 1.5 s)."
  type        = string
  default     = "balanced"

  validation {
    condition     = contains(["balanced", "strict", "fenced"], var.mode)
    error_message = "The mode must be \"balanced\", \"strict\" or \"fenced\"."
  }
}

variable "ttl" {
  description = "How long after its last sign of life an elector is given up in the modes balanced and fenced (\"1.5s\"), from 1s to 1m."
  type        = string
  default     = "1.5s"

  validation {
    condition     = var.ttl != "" && regex_replace(var.ttl, "^[1-9][0-9]*([.][0-9]+)?s$|^1m$", "") == ""
    error_message = "The ttl must be a duration from 1s to 1m, for example \"1.5s\"."
  }
}

variable "prefix" {
  description = "Where the keys of elections lie in Consul. Electors with different prefixes know nothing of each other."
  type        = string
  default     = "election"

  validation {
    condition     = var.prefix != "" && regex_replace(var.prefix, "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", "") == ""
    error_message = "The prefix must be a path of letters, digits, dots, dashes and underscores, without a slash at its ends."
  }
}

variable "consul_addr" {
  description = "URL of the Consul agent on the client machine. It must be that machine's own agent: its loss is what stands for the loss of the machine."
  type        = string
  default     = "http://127.0.0.1:8500"

  validation {
    condition     = var.consul_addr != "" && regex_replace(var.consul_addr, "^https?://[^/]+$", "") == ""
    error_message = "The consul_addr must be a URL such as http://127.0.0.1:8500, without a path."
  }
}

variable "network" {
  description = "Network of the instances: \"host\" (that of the machine), or \"bridge\" (one of their own for each; driver docker)."
  type        = string
  default     = "host"

  validation {
    condition     = contains(["host", "bridge"], var.network)
    error_message = "The network must be \"host\" or \"bridge\"."
  }
}

variable "consul_socket" {
  description = "Unix socket of the Consul agent on the client machine, for the network \"bridge\", where 127.0.0.1 is not the machine. Consul listens there with addresses { http = \"127.0.0.1 unix:///run/consul/http.sock\" }."
  type        = string
  default     = "/run/consul/http.sock"

  validation {
    condition     = var.consul_socket != "" && regex_replace(var.consul_socket, "^(/|[$]).*$", "") == ""
    error_message = "The consul_socket must be an absolute path."
  }
}

# --- what is run ------------------------------------------------------------------

variable "elector" {
  description = "The program elector on the client machine (driver raw_exec): an absolute path, or a name that is found on the PATH of the Nomad client."
  type        = string
  default     = "elector"

  validation {
    condition     = var.elector != "" && regex_replace(var.elector, "^(/[^ ]*|[^/ ]+)$", "") == ""
    error_message = "The elector must be an absolute path, or a name without slashes."
  }
}

variable "elector_image" {
  description = "Image with /bin/elector and nothing else needed (driver docker)."
  type        = string
  default     = "nomad-patterns/elector:1"

  validation {
    condition     = var.elector_image != ""
    error_message = "The elector_image must not be empty."
  }
}

variable "image" {
  description = "Image of the app (driver docker). The sample app needs /bin/busybox and nothing else."
  type        = string
  default     = "nomad-patterns/busybox:1"

  validation {
    condition     = var.image != ""
    error_message = "The image must not be empty."
  }
}

variable "command" {
  description = "Program of the app and its arguments. Empty: the sample app. It finds NOMAD_PORT_elector and ELECTION in its environment."
  type        = list(string)
  default     = []
}

# --- how it ends ------------------------------------------------------------------

variable "kill_timeout" {
  description = "How long the app may take to end, in whole seconds (\"10s\"). Until it closes its stream it leads."
  type        = string
  default     = "10s"

  validation {
    condition     = var.kill_timeout != "" && regex_replace(var.kill_timeout, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The kill_timeout must be whole seconds, for example \"10s\"."
  }
}

# --- how it is rolled out ---------------------------------------------------------

variable "max_parallel" {
  description = "How many instances are replaced at the same time in an update or a drain."
  type        = number
  default     = 1

  validation {
    condition     = var.max_parallel >= 1
    error_message = "The max_parallel must be at least 1."
  }
}

variable "min_healthy_time" {
  description = "How long a new instance has to run before the next one is replaced."
  type        = string
  default     = "5s"

  validation {
    condition     = var.min_healthy_time != "" && regex_replace(var.min_healthy_time, "^[0-9]+(ms|s|m)$", "") == ""
    error_message = "The min_healthy_time must be a duration such as \"5s\"."
  }
}

variable "healthy_deadline" {
  description = "When a new instance that is not healthy makes the update fail."
  type        = string
  default     = "2m"

  validation {
    condition     = var.healthy_deadline != "" && regex_replace(var.healthy_deadline, "^[1-9][0-9]*(s|m)$", "") == ""
    error_message = "The healthy_deadline must be a duration such as \"2m\"."
  }
}

variable "auto_revert" {
  description = "Whether a failed update goes back to the last version that was healthy."
  type        = bool
  default     = true
}

variable "cpu" {
  description = "CPU share of the app, in MHz."
  type        = number
  default     = 100

  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu must be at least 1 MHz."
  }
}

variable "memory" {
  description = "Memory of the app, in MB."
  type        = number
  default     = 64

  validation {
    condition     = var.memory >= 10
    error_message = "The memory must be at least 10 MB."
  }
}

variable "elector_cpu" {
  description = "CPU share of the elector, in MHz. It must not starve: an elector that is not scheduled for the length of the ttl has lost its leadership."
  type        = number
  default     = 50

  validation {
    condition     = var.elector_cpu >= 1
    error_message = "The elector_cpu must be at least 1 MHz."
  }
}

variable "elector_memory" {
  description = "Memory of the elector, in MB."
  type        = number
  default     = 64

  validation {
    condition     = var.elector_memory >= 32
    error_message = "The elector_memory must be at least 32 MB."
  }
}

locals {
  docker = var.driver == "docker"
  bridge = var.network == "bridge"

  # Empty: the network of the group.
  network_mode = local.bridge ? "" : "host"

  elector_args = ["agent", "-listen=127.0.0.1:$${NOMAD_PORT_elector}", "-ttl=${var.ttl}", "-prefix=${var.prefix}"]

  sample  = ["$${NOMAD_TASK_DIR}/app.sh"]
  shell   = local.docker ? ["/bin/busybox", "sh"] : ["/bin/sh"]
  command = length(var.command) > 0 ? var.command : concat(local.shell, local.sample)
}

job "leader-election" {
  id          = var.job_name
  name        = var.job_name
  namespace   = var.namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool
  type        = "service"

  meta {
    release = var.release
  }

  update {
    max_parallel      = var.max_parallel
    health_check      = "task_states"
    min_healthy_time  = var.min_healthy_time
    healthy_deadline  = var.healthy_deadline
    progress_deadline = "10m"
    auto_revert       = var.auto_revert
  }

  # The same care when a node is drained.
  migrate {
    max_parallel     = var.max_parallel
    health_check     = "task_states"
    min_healthy_time = var.min_healthy_time
    healthy_deadline = var.healthy_deadline
  }

  group "app" {
    count = var.count

    # The app reaches the elector at 127.0.0.1, on the network of the machine or on
    # one that only the two of them have. The port keeps instances on one machine apart.
    network {
      mode = var.network

      port "elector" {}
    }

    # Rather on different machines, so that the loss of one leaves somebody to lead.
    spread {
      attribute = "$${node.unique.id}"
    }

    # A sidecar that starts before the app and, so Nomad has it, is stopped after it.
    task "elector" {
      driver       = var.driver
      kill_signal  = "SIGTERM" # leave the elections, then Consul
      kill_timeout = "15s"     # it takes 10s at most

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      # Its end costs the leadership and nothing else, so begin again at once.
      restart {
        attempts = 20
        interval = "5m"
        delay    = "1s"
        mode     = "delay"
      }

      # One of the two, as the variable "driver" says.
      dynamic "config" {
        for_each = local.docker ? [] : [var.elector]

        content {
          command = config.value
          args    = local.elector_args
        }
      }

      dynamic "config" {
        for_each = local.docker ? [var.elector_image] : []

        content {
          image        = config.value
          command      = "/bin/elector"
          args         = local.elector_args
          network_mode = local.network_mode
          volumes      = local.bridge ? ["${var.consul_socket}:/run/consul.sock"] : []
        }
      }

      env {
        CONSUL_HTTP_ADDR = local.bridge ? "unix:///run/consul.sock" : var.consul_addr
      }

      resources {
        cpu    = var.elector_cpu
        memory = var.elector_memory
      }
    }

    task "app" {
      driver       = var.driver
      kill_signal  = "SIGTERM"
      kill_timeout = var.kill_timeout

      restart {
        attempts = 20
        interval = "5m"
        delay    = "1s"
        mode     = "delay"
      }

      dynamic "config" {
        for_each = local.docker ? [] : [local.command]

        content {
          command = config.value[0]
          args    = slice(config.value, 1, length(config.value))
        }
      }

      dynamic "config" {
        for_each = local.docker ? [var.image] : []

        content {
          image        = config.value
          command      = local.command[0]
          args         = slice(local.command, 1, length(local.command))
          network_mode = local.network_mode
          init         = true # it takes the ends of processes that nobody waits for
        }
      }

      env {
        ELECTION      = var.election
        ELECTION_MODE = var.mode
      }

      # The sample app. It runs in any POSIX shell, with curl or with busybox alone.
      template {
        destination = "local/app.sh"
        change_mode = "noop"
        perms       = "755"
        data        = <<-SHELL
          #!/bin/sh
          api=http://127.0.0.1:$NOMAD_PORT_elector/v1/elections/$ELECTION

          if [ -x /bin/busybox ] && ! [ -x /usr/bin/mkfifo ]; then # an image with nothing else
            /bin/busybox mkdir -p "$NOMAD_TASK_DIR/bin"
            /bin/busybox --install -s "$NOMAD_TASK_DIR/bin"
            PATH=$NOMAD_TASK_DIR/bin:$PATH
          fi
          if command -v curl >/dev/null; then
            stream() { exec curl -sSfN "$1"; }
            post() { curl -sSf -m 5 -d "$2" "$1"; }
          else
            stream() { exec wget -q -O - "$1"; }
            post() { timeout 5 wget -q -O - --post-data "$2" "$1"; }
          fi

          # The work, as long as it may be done: it counts on where the last leader
          # stopped. The token makes sure that nothing is written that comes too late.
          work() {
            while :; do
              seen=$(post "$api/kv" '{"token":'$1',"ops":[{"verb":"get-or-empty","key":"count"}]}') || return
              last=$(echo "$seen" | sed -n 's/.*"value":"\([0-9]*\) .*/\1/p')
              count=$(($${last:-0} + 1))
              post "$api/kv" '{"token":'$1',"ops":[{"verb":"set","key":"count","value":"'$count' by '$NOMAD_ALLOC_ID' with token '$1'"}]}' >/dev/null || return
              echo "counted to $count with token $1"
              sleep 1
            done
          }

          # One stream, from its beginning to its end.
          hold() {
            work=
            event=
            stream "$api/hold?mode=$ELECTION_MODE" >"$events" &
            stream=$!
            while IFS= read -r line; do
              case $line in
              "event: "*) event=$${line#event: } ;;
              "data: "*)
                case $event in
                leader)
                  token=$${line#*'"token":'}
                  token=$${token%%[!0-9]*}
                  echo "leading with token $token"
                  work "$token" &
                  work=$!
                  ;;
                lost) echo "lost: $${line#data: }" ;;
                esac
                ;;
              esac
            done <"$events"
            end
          }

          # Ends what runs. Nothing may go on once somebody else can lead.
          end() {
            kill $stream $work 2>/dev/null
            wait $stream $work
          }

          events=$NOMAD_TASK_DIR/events
          rm -f "$events"
          mkfifo "$events" || exit 1
          trap 'end; exit 0' TERM INT
          while :; do
            hold
            sleep 1
          done
        SHELL
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
      }
    }
  }
}
