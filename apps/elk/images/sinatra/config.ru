# frozen_string_literal: true

require_relative 'app'
require_relative 'access_log'

use AccessLog, ENV.fetch('LOG', '/var/log/app/access.log')
run Shop
