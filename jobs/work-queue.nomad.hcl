# A work queue: your program is run on each file that is put into it, on as many workers as
# you like.
#
#   nomad job run work-queue.nomad.hcl
#   nomad job run -var driver=docker -var image=... -var 'command=["/bin/resize", "$WQ_INPUT", "$WQ_OUTPUT"]' work-queue.nomad.hcl
#
# Then put something in, from any machine with the program queue. The broker in charge is
# the service "queue-files" in Consul:
#
#   curl -s http://127.0.0.1:8500/v1/catalog/service/queue-files | grep -o '"ServicePort":[0-9]*'
#   queue put -address=http://127.0.0.1:PORT files /usr/share/doc
#   queue wait -address=http://127.0.0.1:PORT files
#
# and look at it: http://127.0.0.1:PORT/
#
# Group "broker": two brokers, of which one is in charge. The queue itself is in Consul.
# Group "worker": the program worker runs your command for each item, in your image. It
# reads the file $WQ_INPUT and writes the file $WQ_OUTPUT, and that is all it has to do:
#
#   exit 0      done; the output is published under the name of the input
#   exit 65     can never be done: a dead letter, with the last words of stderr as reason
#   exit 99     nothing to do
#   other       failed; tried again later, max_failed times in all
#
# What happens when something ends:
#
#   worker killed, machine lost   its items go to others when their lease is over
#   worker stopped, drained       it finishes what it is at, within kill_timeout
#   broker killed                 another one is in charge within two seconds
#
# As it stands the work counts the words of a text, with the tools of the machine.
#
# With listen=network brokers are reached from other machines, and want a token, which is kept
# in a variable of Nomad: nomad var put nomad/jobs/JOB token=...

variable "job_name" {
  description = "Name of the job. Also part of its allocations' names."
  type        = string
  default     = "work-queue"

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
  description = "Datacenters in which the job may be placed. [\"*\"] is all of them."
  type        = list(string)
  default     = ["*"]

  validation {
    condition     = length(var.datacenters) > 0
    error_message = "The datacenters must name at least one, or be [\"*\"]."
  }
}

variable "node_pool" {
  description = "Node pool in which the job is placed."
  type        = string
  default     = "default"
}

variable "driver" {
  description = "How brokers and workers run: \"raw_exec\" (programs of the machine) or \"docker\" (images)."
  type        = string
  default     = "raw_exec"

  validation {
    condition     = contains(["raw_exec", "docker"], var.driver)
    error_message = "The driver must be \"raw_exec\" or \"docker\"."
  }
}

variable "release" {
  description = "Any text that names what is deployed. Changing it replaces brokers and workers one after the other."
  type        = string
  default     = "1"

  validation {
    condition     = var.release != "" && regex_replace(var.release, "^[A-Za-z0-9._+-]+$", "") == ""
    error_message = "The release must consist of letters, digits, dots, dashes, underscores and plus signs."
  }
}

# --- the queue --------------------------------------------------------------------

variable "queue" {
  description = "Name of the queue. The brokers make it if there is none."
  type        = string
  default     = "files"

  validation {
    condition     = var.queue != "" && regex_replace(var.queue, "^[a-z0-9][a-z0-9_-]{0,62}$", "") == ""
    error_message = "The queue must be 1 to 63 small letters, digits, dashes or underscores, and begin with a letter or digit."
  }
}

variable "prefix" {
  description = "Where the keys of queues lie in Consul. Brokers with different prefixes know nothing of each other."
  type        = string
  default     = "queue"

  validation {
    condition     = var.prefix != "" && regex_replace(var.prefix, "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", "") == ""
    error_message = "The prefix must be a path of letters, digits, dots, dashes and underscores, without a slash at its ends."
  }
}

variable "brokers" {
  description = "Number of brokers. One is in charge; the others take over within two seconds when it dies."
  type        = number
  default     = 2

  validation {
    condition     = var.brokers >= 1 && var.brokers <= 10 && floor(var.brokers) == var.brokers
    error_message = "The brokers must be a whole number from 1 to 10."
  }
}

variable "consul_addr" {
  description = "URL of the Consul agent on the client machine."
  type        = string
  default     = "http://127.0.0.1:8500"

  validation {
    condition     = var.consul_addr != "" && regex_replace(var.consul_addr, "^https?://[^/]+$", "") == ""
    error_message = "The consul_addr must be a URL such as http://127.0.0.1:8500, without a path."
  }
}

variable "listen" {
  description = "Where brokers listen and are reached: \"loopback\" (everything on one machine) or \"network\" (the network of the machine, with a token)."
  type        = string
  default     = "loopback"

  validation {
    condition     = contains(["loopback", "network"], var.listen)
    error_message = "The listen must be \"loopback\" or \"network\"."
  }
}

variable "lease" {
  description = "How long a worker may be silent before others get its items (\"15s\"), from 1s to 1h. It does not bound how long work takes."
  type        = string
  default     = "15s"

  validation {
    condition     = var.lease != "" && regex_replace(var.lease, "^[1-9][0-9]*(s|m)$|^1h$", "") == ""
    error_message = "The lease must be a duration such as \"15s\"."
  }
}

variable "max_failed" {
  description = "How often an item may fail before it is a dead letter."
  type        = number
  default     = 5

  validation {
    condition     = var.max_failed >= 1 && var.max_failed <= 1000 && floor(var.max_failed) == var.max_failed
    error_message = "The max_failed must be a whole number from 1 to 1000."
  }
}

# --- the work ---------------------------------------------------------------------

variable "workers" {
  description = "Number of workers."
  type        = number
  default     = 2

  validation {
    condition     = var.workers >= 0 && var.workers <= 1000 && floor(var.workers) == var.workers
    error_message = "The workers must be a whole number from 0 to 1000."
  }
}

variable "slots" {
  description = "How many items a worker does at a time."
  type        = number
  default     = 1

  validation {
    condition     = var.slots >= 1 && var.slots <= 1000 && floor(var.slots) == var.slots
    error_message = "The slots must be a whole number from 1 to 1000."
  }
}

variable "input_dir" {
  description = "Directory on the machines in which inputs are. It has to be the same on all of them, as on a shared volume."
  type        = string
  default     = "/usr/share/doc"

  validation {
    condition     = regex_replace(var.input_dir, "^/[A-Za-z0-9._/-]*$", "") == "" && var.input_dir != ""
    error_message = "The input_dir must be an absolute path of letters, digits, dots, dashes, underscores and slashes."
  }
}

variable "output_dir" {
  description = "Directory on the machines into which outputs go. It has to be shared as well; it is made if it is missing."
  type        = string
  default     = "/var/tmp/work-queue"

  validation {
    condition     = regex_replace(var.output_dir, "^/[A-Za-z0-9._/-]*$", "") == "" && var.output_dir != ""
    error_message = "The output_dir must be an absolute path of letters, digits, dots, dashes, underscores and slashes."
  }
}

variable "command" {
  description = "Program of the work and its arguments; $WQ_INPUT and $WQ_OUTPUT stand for the paths. Empty: the sample, which counts words."
  type        = list(string)
  default     = []
}

variable "kill_timeout" {
  description = "How long a worker that has to end may take to finish what it is at, in whole seconds (\"30s\"). Then its items are given back."
  type        = string
  default     = "30s"

  validation {
    condition     = var.kill_timeout != "" && regex_replace(var.kill_timeout, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The kill_timeout must be whole seconds, for example \"30s\"."
  }
}

# --- programs and images ----------------------------------------------------------

variable "queue_program" {
  description = "The program queue on the client machine (driver raw_exec): an absolute path, or a name that is found on the PATH of the Nomad client."
  type        = string
  default     = "queue"

  validation {
    condition     = var.queue_program != "" && regex_replace(var.queue_program, "^(/[^ ]*|[^/ ]+)$", "") == ""
    error_message = "The queue_program must be an absolute path, or a name without slashes."
  }
}

variable "worker_program" {
  description = "The program worker, likewise."
  type        = string
  default     = "worker"

  validation {
    condition     = var.worker_program != "" && regex_replace(var.worker_program, "^(/[^ ]*|[^/ ]+)$", "") == ""
    error_message = "The worker_program must be an absolute path, or a name without slashes."
  }
}

variable "queue_image" {
  description = "Image with /bin/queue and nothing else needed (driver docker)."
  type        = string
  default     = "nomad-patterns/queue:1"

  validation {
    condition     = var.queue_image != ""
    error_message = "The queue_image must not be empty."
  }
}

variable "worker_image" {
  description = "Image with /bin/worker and nothing else needed (driver docker). The program is put beside the image of the work."
  type        = string
  default     = "nomad-patterns/worker:1"

  validation {
    condition     = var.worker_image != ""
    error_message = "The worker_image must not be empty."
  }
}

variable "image" {
  description = "Image of the work (driver docker). The sample needs /bin/busybox and nothing else."
  type        = string
  default     = "nomad-patterns/busybox:1"

  validation {
    condition     = var.image != ""
    error_message = "The image must not be empty."
  }
}

variable "cpu" {
  description = "CPU share of a worker with the work, in MHz."
  type        = number
  default     = 100

  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu must be at least 1 MHz."
  }
}

variable "memory" {
  description = "Memory of a worker with the work, in MB."
  type        = number
  default     = 128

  validation {
    condition     = var.memory >= 40
    error_message = "The memory must be at least 40 MB."
  }
}

variable "broker_cpu" {
  description = "CPU share of a broker, in MHz."
  type        = number
  default     = 100

  validation {
    condition     = var.broker_cpu >= 1
    error_message = "The broker_cpu must be at least 1 MHz."
  }
}

variable "broker_memory" {
  description = "Memory of a broker, in MB: 64, and 32 for each 100,000 items in the queue."
  type        = number
  default     = 128

  validation {
    condition     = var.broker_memory >= 64
    error_message = "The broker_memory must be at least 64 MB."
  }
}

locals {
  docker = var.driver == "docker"
  open   = var.listen == "network"

  address    = local.open ? "$${NOMAD_IP_queue}:$${NOMAD_PORT_queue}" : "127.0.0.1:$${NOMAD_PORT_queue}"
  token_args = local.open ? ["-listen-token-file=$${NOMAD_SECRETS_DIR}/token"] : []
  broker_args = concat([
    "agent", "-listen=${local.address}", "-prefix=${var.prefix}", "-config=$${NOMAD_TASK_DIR}/queue.hcl",
  ], local.token_args)

  worker_args = concat([
    "-queue=${var.queue}", "-slots=${var.slots}", "-input-dir=${var.input_dir}", "-drain-timeout=${var.kill_timeout}",
  ], local.open ? ["-queue-token-file=$${NOMAD_SECRETS_DIR}/token"] : [])
  # The program, beside the image of the work.
  worker = local.docker ? "$${NOMAD_ALLOC_DIR}/bin/worker" : var.worker_program

  sample  = concat(local.docker ? ["/bin/busybox", "sh"] : ["/bin/sh"], ["$${NOMAD_TASK_DIR}/work.sh"])
  command = length(var.command) > 0 ? var.command : local.sample

  # The worker has the time that it gives its items, and some more to give them back.
  kill_timeout = format("%ds", parseint(trimsuffix(var.kill_timeout, "s"), 10) + 15)

  # The token of a queue that is reached over the network is kept in a variable of Nomad:
  #   nomad var put nomad/jobs/JOB token=...
  token = <<-TOKEN
    {{ with nomadVar "nomad/jobs/${var.job_name}" }}{{ .token }}{{ end }}
  TOKEN
}

job "work-queue" {
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
    max_parallel     = 1
    health_check     = "task_states"
    min_healthy_time = "3s"
    healthy_deadline = "2m"
    auto_revert      = true
  }

  group "broker" {
    count = var.brokers

    network {
      mode = "host"

      port "queue" {}
    }

    # Rather on different machines, so that the loss of one leaves another.
    spread {
      attribute = "$${node.unique.id}"
    }

    task "queue" {
      driver       = var.driver
      kill_signal  = "SIGTERM" # give the queue to another broker
      kill_timeout = "15s"     # it takes 10s at most

      restart {
        attempts = 20
        interval = "5m"
        delay    = "1s"
        mode     = "delay"
      }

      # One of the two, as the variable "driver" says.
      dynamic "config" {
        for_each = local.docker ? [] : [var.queue_program]

        content {
          command = config.value
          args    = local.broker_args
        }
      }

      dynamic "config" {
        for_each = local.docker ? [var.queue_image] : []

        content {
          image        = config.value
          command      = "/bin/queue"
          args         = local.broker_args
          network_mode = "host"
        }
      }

      env {
        CONSUL_HTTP_ADDR = var.consul_addr
      }

      template {
        destination = "local/queue.hcl"
        change_mode = "noop"
        data        = <<-CONFIG
          queue "${var.queue}" {
            stage "work" {
              lease      = "${var.lease}"
              max_failed = ${var.max_failed}
            }
          }
        CONFIG
      }

      dynamic "template" {
        for_each = local.open ? [local.token] : []

        content {
          destination   = "secrets/token"
          change_mode   = "signal"
          change_signal = "SIGHUP"
          data          = template.value
        }
      }

      resources {
        cpu    = var.broker_cpu
        memory = var.broker_memory
      }
    }
  }

  group "worker" {
    count = var.workers

    # With docker: puts the program worker beside the image of the work, which may be any.
    # With raw_exec there is only the directory of the outputs to be made.
    task "prepare" {
      driver = var.driver

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      dynamic "config" {
        for_each = local.docker ? [] : [var.output_dir]

        content {
          command = "/bin/mkdir"
          args    = ["-p", config.value]
        }
      }

      dynamic "config" {
        for_each = local.docker ? [var.worker_image] : []

        content {
          image   = config.value
          command = "/bin/worker"
          args    = ["install", "$${NOMAD_ALLOC_DIR}/bin/worker"]
        }
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "work" {
      driver       = var.driver
      kill_signal  = "SIGTERM" # finish what is begun
      kill_timeout = local.kill_timeout

      restart {
        attempts = 20
        interval = "5m"
        delay    = "1s"
        mode     = "delay"
      }

      dynamic "config" {
        for_each = local.docker ? [] : [local.worker]

        content {
          command = config.value
          args    = concat(local.worker_args, ["-output=${var.output_dir}", "--"], local.command)
        }
      }

      dynamic "config" {
        for_each = local.docker ? [var.image] : []

        content {
          image        = config.value
          command      = local.worker
          args         = concat(local.worker_args, ["-output=${var.output_dir}", "--"], local.command)
          network_mode = "host"
          volumes      = ["${var.input_dir}:${var.input_dir}:ro", "${var.output_dir}:${var.output_dir}"]
        }
      }

      env {
        CONSUL_HTTP_ADDR = var.consul_addr
      }

      # The sample.
      template {
        destination = "local/work.sh"
        change_mode = "noop"
        perms       = "755"
        data        = <<-SHELL
          #!/bin/sh
          set -e
          export LC_ALL=C # the order of bytes
          if ! [ -x /usr/bin/sort ]; then # an image with busybox alone
            export PATH="$NOMAD_TASK_DIR/bin:$PATH"
            [ -e "$NOMAD_TASK_DIR/bin/sort" ] || { /bin/busybox mkdir -p "$NOMAD_TASK_DIR/bin"; /bin/busybox --install -s "$NOMAD_TASK_DIR/bin"; }
          fi
          case $WQ_INPUT in *.gz) gzip -t "$WQ_INPUT" || exit 65 ;; esac # damaged: a dead letter
          case $WQ_INPUT in
          *.gz) zcat "$WQ_INPUT" ;;
          *) cat "$WQ_INPUT" ;;
          esac | tr -cs '[:alnum:]' '\n' | tr '[:upper:]' '[:lower:]' | sort | uniq -c |
            awk 'NF == 2 { print $2, $1 }' >"$WQ_OUTPUT"
        SHELL
      }

      dynamic "template" {
        for_each = local.open ? [local.token] : []

        content {
          destination = "secrets/token"
          data        = template.value
        }
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
      }
    }
  }
}
