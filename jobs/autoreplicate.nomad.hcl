# Workers that ask for one more of themselves when there is too much to do, and for one fewer
# when there is nothing.
#
#   nomad job run autoreplicate.nomad.hcl
#   nomad job run -var driver=docker -var image=curlimages/curl:8.17.0 autoreplicate.nomad.hcl
#
# Give them something to do, and watch the count:
#
#   (cd /var/tmp/autoreplicate && touch $(seq 40))
#   nomad job scaling-events autoreplicate
#
# No metrics server and no autoscaler has to run. A worker knows best how much there is to do. It
# says so to the plugin, at a socket in its own secrets directory, without a token:
#
#   curl --unix-socket "$LIFECYCLE_SOCKET" -d '{"delta":1}' http://localhost/v1/replicate
#
# and the plugin asks Nomad. It does so only for a task with the block manage { replicate { } },
# only for the task's own group, and within its bounds and those of the group's scaling block,
# which "nomad job scale" and the UI respect as well. With ACLs the plugin's token needs
# scale-job.
#
# While Nomad starts one more it lets nobody change the number. A request waits for that, for up
# to 30 seconds, and so the number grows by one at a time. What is outside the bounds is 409.
#
# Which one goes when there is one fewer is Nomad's choice: the one with the highest index. It
# ends what it is at first. The worker with the index 0 stays, so it is the one that asks.
#
# As it stands work is the files of a directory: a worker takes one, works for a while, and
# removes it. That is for looking at; for real queues see work-queue.nomad.hcl.

variable "job_name" {
  description = "Name of the job. Also part of its allocations' names."
  type        = string
  default     = "autoreplicate"

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
  description = "Datacenters in which workers may be placed. [\"*\"] is all of them."
  type        = list(string)
  default     = ["*"]

  validation {
    condition     = length(var.datacenters) > 0
    error_message = "The datacenters must name at least one, or be [\"*\"]."
  }
}

variable "node_pool" {
  description = "Node pool in which workers are placed."
  type        = string
  default     = "default"
}

variable "min" {
  description = "The least number of workers."
  type        = number
  default     = 1

  validation {
    condition     = var.min >= 1 && var.min <= 1000 && floor(var.min) == var.min
    error_message = "The min must be a whole number from 1 to 1000: nobody would be left to ask."
  }
}

variable "max" {
  description = "The largest number of workers, not below min."
  type        = number
  default     = 4

  validation {
    condition     = var.max >= 1 && var.max <= 1000 && floor(var.max) == var.max
    error_message = "The max must be a whole number from 1 to 1000."
  }
}

variable "driver" {
  description = "How workers run: \"raw_exec\" (programs of the machine) or \"docker\" (an image). The lifecycle- driver of that name is used."
  type        = string
  default     = "raw_exec"

  validation {
    condition     = contains(["raw_exec", "docker"], var.driver)
    error_message = "The driver must be \"raw_exec\" or \"docker\"."
  }
}

variable "release" {
  description = "Any text that names what is deployed. Changing it replaces the workers one after the other."
  type        = string
  default     = "1"

  validation {
    condition     = var.release != "" && regex_replace(var.release, "^[A-Za-z0-9._+-]+$", "") == ""
    error_message = "The release must consist of letters, digits, dots, dashes, underscores and plus signs."
  }
}

# --- the work ---------------------------------------------------------------------

variable "work_dir" {
  description = "Directory on the machines whose files are the work. It has to be the same on all of them, as on a shared volume, and the workers' user has to be able to write there; it is made if it is missing."
  type        = string
  default     = "/var/tmp/autoreplicate"

  validation {
    condition     = var.work_dir != "" && regex_replace(var.work_dir, "^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$", "") == ""
    error_message = "The work_dir must be an absolute path of letters, digits, dots, dashes and underscores."
  }
}

variable "work_time" {
  description = "How long the work on a file takes, in whole seconds (\"2s\"). A worker that has to end needs that long."
  type        = string
  default     = "2s"

  validation {
    condition     = var.work_time != "" && regex_replace(var.work_time, "^[1-9][0-9]?s$", "") == ""
    error_message = "The work_time must be whole seconds below 100, for example \"2s\"."
  }
}

variable "high" {
  description = "With more than so many files waiting there is too much to do: one worker more."
  type        = number
  default     = 5

  validation {
    condition     = var.high >= 1 && floor(var.high) == var.high
    error_message = "The high must be a whole number of at least 1."
  }
}

variable "idle" {
  description = "When nothing has been waiting for so long, in whole seconds (\"30s\"), there is one worker fewer."
  type        = string
  default     = "30s"

  validation {
    condition     = var.idle != "" && regex_replace(var.idle, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The idle must be whole seconds, for example \"30s\"."
  }
}

# --- programs and images ----------------------------------------------------------

variable "curl" {
  description = "The program curl, which busybox cannot stand in for: a path, or a name that is found on the PATH."
  type        = string
  default     = "curl"

  validation {
    condition     = var.curl != "" && regex_replace(var.curl, "^[A-Za-z0-9._/-]+$", "") == ""
    error_message = "The curl must be a path or a name, without blanks."
  }
}

variable "image" {
  description = "Image with /bin/sh and curl (driver docker), for example curlimages/curl. make images builds the one that is named here."
  type        = string
  default     = "nomad-patterns/curl:1"

  validation {
    condition     = var.image != ""
    error_message = "The image must not be empty."
  }
}

variable "cpu" {
  description = "CPU share of a worker, in MHz."
  type        = number
  default     = 100

  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu must be at least 1 MHz."
  }
}

variable "memory" {
  description = "Memory of a worker, in MB."
  type        = number
  default     = 64

  validation {
    condition     = var.memory >= 10
    error_message = "The memory must be at least 10 MB."
  }
}

locals {
  docker       = var.driver == "docker"
  work_seconds = parseint(trimsuffix(var.work_time, "s"), 10)
  script       = ["$${NOMAD_TASK_DIR}/work.sh"]
}

job "autoreplicate" {
  id          = var.job_name
  name        = var.job_name
  namespace   = var.namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool
  type        = "service"

  meta {
    release = var.release
  }

  # One more worker is a deployment as well, and Nomad takes no other count while it runs.
  update {
    max_parallel     = 1
    health_check     = "task_states"
    min_healthy_time = "1s"
    healthy_deadline = "1m"
    auto_revert      = true
  }

  group "worker" {
    # There is no count: it begins with min, and "nomad job run -preserve-counts" keeps the
    # number that there is.
    scaling {
      enabled = true
      min     = var.min
      max     = var.max
    }

    spread {
      attribute = "$${node.unique.id}"
    }

    task "work" {
      driver       = "lifecycle-${var.driver}"
      kill_signal  = "SIGTERM" # end what is begun
      kill_timeout = format("%ds", local.work_seconds + 5)

      # One of the two, as the variable "driver" says.
      dynamic "config" {
        for_each = local.docker ? [] : ["/bin/sh"]

        content {
          command = config.value
          args    = local.script

          lifecycle {
            manage {
              replicate {
                min = var.min
                max = var.max
              }
            }
          }
        }
      }

      dynamic "config" {
        for_each = local.docker ? [var.image] : []

        content {
          image      = config.value
          entrypoint = ["/bin/sh"]
          args       = local.script
          volumes    = ["${var.work_dir}:${var.work_dir}"]
          init       = true # it hands SIGTERM on

          lifecycle {
            manage {
              replicate {
                min = var.min
                max = var.max
              }
            }
          }
        }
      }

      template {
        destination = "local/work.sh"
        change_mode = "noop"
        perms       = "755"
        data        = <<-SHELL
          #!/bin/sh
          mine=$NOMAD_TASK_DIR/doing
          mkdir -p "$mine" "${var.work_dir}"
          cd "${var.work_dir}" || exit 1
          mv "$mine"/* . 2>/dev/null # what a worker that was killed has left, if this is a restart in place

          waiting() { ls | wc -l; }

          # Asks for more or fewer. What the bounds or Nomad refuse is asked for again later, if
          # it is still needed then.
          replicate() {
            answer=$(${var.curl} -sS -m 40 --unix-socket "$LIFECYCLE_SOCKET" -d "{\"delta\":$1}" http://localhost/v1/replicate 2>&1)
            echo "$2: $answer"
            case $answer in
            *'"count"'*) ;;
            *) sleep 10 ;;
            esac
          }

          # Looks every second whether there is too much to do, or nothing.
          watch() {
            quiet=0
            while sleep 1; do
              n=$(waiting)
              if [ "$n" -gt 0 ]; then quiet=0; else quiet=$((quiet + 1)); fi
              if [ "$n" -gt ${var.high} ]; then
                replicate 1 "$n waiting, one more"
              elif [ $quiet -ge ${trimsuffix(var.idle, "s")} ]; then
                replicate -1 "nothing for $quiet s, one fewer"
                quiet=0
              fi
            done
          }

          watch=
          if [ "$NOMAD_ALLOC_INDEX" = 0 ]; then
            watch &
            watch=$!
          fi
          stop=
          trap 'stop=yes' TERM
          while [ -z "$stop" ]; do
            for file in *; do
              # One of all workers takes it.
              [ -z "$stop" ] && mv "$file" "$mine/" 2>/dev/null || continue
              sleep ${local.work_seconds} & # the work
              while kill -0 $! 2>/dev/null; do wait $!; done
              echo "done: $file"
              rm -f "$mine/$file"
            done
            sleep 0.5
          done
          [ -z "$watch" ] || kill "$watch"
        SHELL
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
      }
    }
  }
}
