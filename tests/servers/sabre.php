<?php
// A file server of sabre/dav for `php -S`, as the library's examples make one.

// As they do: without this a disk that is full is no error to sabre/dav.
// PHP is younger than Debian's sabre/dav, which does what it calls deprecated.
error_reporting(E_ALL & ~E_DEPRECATED);
set_error_handler(function ($number, $message, $file, $line) {
    if (error_reporting() & $number) {
        throw new ErrorException($message, 0, $number, $file, $line);
    }
    return true;
});

require 'Sabre/autoload.php';

class Password extends Sabre\DAV\Auth\Backend\AbstractBasic
{
    protected function validateUserPass($username, $password)
    {
        return hash_equals(getenv('DAV_USER'), $username)
            && hash_equals(getenv('DAV_PASSWORD'), $password);
    }
}

$server = new Sabre\DAV\Server(new Sabre\DAV\FS\Directory(getenv('DAV_ROOT')));
$server->setBaseUri('/dav/');
$server->addPlugin(new Sabre\DAV\Auth\Plugin(new Password(), 'netstorage'));
$server->exec();
