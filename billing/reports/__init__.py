"""What finance asks. One query file per report; every answer says as of when."""
